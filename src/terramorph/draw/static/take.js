// The menu of what can be taken along, the card of the model, and the drawing's place on Earth.
import { toGeoJson } from "./geojson.js";
import { Place } from "./place.js";
import { geoTiff, png, save, sideBySide, toLink, placeFile } from "./share.js";
import { $, announce, notice } from "./ui.js";

export function takeAlong(app) {
  const { state, drawing, renderer, config } = app;
  const line = () => $("line").textContent;
  const photo = () => {
    if (!state.image) throw new Error("There is no photograph yet; load the network first.");
    return state.image;
  };
  const acts = {
    beside: async () => save(await sideBySide(app.map(), photo(), line()), "side-by-side.png"),
    photo: async () => save(await png(photo()), "photograph.png"),
    map: async () => save(await png(app.map()), "map.png"),
    aux: () => save(placeFile(state.place, state.px), "map.png.aux.xml", "application/xml"),
    tif: () => {
      if (state.read) throw new Error("The picture is yours and not the photograph of the drawing; go back to the drawing first.");
      save(geoTiff(photo(), state.place), "photograph.tif");
    },
    geojson: () => {
      const about = { model: state.model.name, seed: state.seed, note: line() };
      save(JSON.stringify(toGeoJson(drawing.features, renderer, state.place, state.px, about)), "drawing.geojson", "application/geo+json");
    },
    link: async () => {
      const link = await toLink(drawing.features, app.settings(), renderer);
      try {
        await navigator.clipboard.writeText(link);
        notice("The link is copied.");
      } catch {
        history.replaceState(null, "", link);
        notice("The link is in the address line.");
      }
    },
    open: () => $("file").click(),
    place: () => {
      [$("longitude").value, $("latitude").value] = state.place.degrees.map((value) => value.toFixed(5));
      $("placing").showModal();
    },
  };
  for (const button of document.querySelectorAll("[data-take]")) {
    button.onclick = async () => {
      try { await acts[button.dataset.take](); } catch (error) { notice(error.message); }
    };
  }
  $("placing-form").onsubmit = (event) => {
    if (event.submitter?.value !== "ok") return;
    try {
      const degrees = [$("longitude"), $("latitude")].map((field) => (field.value.trim() ? Number(field.value) : NaN));
      app.set({ place: new Place(renderer.metres, degrees) });
      viewer();
      announce("Placed.");
    } catch (error) { event.preventDefault(); notice(error.message); }
  };
  const viewer = () => {
    const [longitude, latitude] = state.place.degrees, zoom = Math.log2(156543.03 * Math.cos(latitude * Math.PI / 180) / renderer.metres) - 1;
    $("viewer").hidden = !(config.server && state.place.chosen);
    if (config.server) $("viewer").href = `${config.server.viewer}#map=${zoom.toFixed(2)}/${latitude.toFixed(5)}/${longitude.toFixed(5)}`;
  };
  $("take").addEventListener("toggle", viewer);
  $("chip").onclick = () => { card(state); $("about").showModal(); };
}

function card({ model, about }) {
  const list = document.createElement("dl"), text = document.createElement("p");
  const rows = { Model: model.name, "Trained on": model.trained_on, Licence: model.licence, Note: model.note,
    "Ground resolution": model.metres_per_pixel && `${model.metres_per_pixel} m a pixel`, "Loaded": model.bytes && `${(model.bytes / 1e6).toFixed(1)} MB`,
    "SHA-256": model.sha256, Runs: about && `${about.backend}, ${about.threads} thread${about.threads === 1 ? "" : "s"}, on your device` };
  for (const [name, value] of Object.entries(rows)) {
    if (!value) continue;
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    list.append(term, said);
  }
  text.textContent = "A network made the picture from the drawing. It shows what the model expects there, and nobody has seen it.";
  $("about").querySelector("div").replaceChildren(text, list);
}
