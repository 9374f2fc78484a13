// The menu of what can be taken along, the card of the model, and the drawing's place on Earth.
import { toGeoJson } from "./geojson.js";
import { Place } from "./place.js";
import { geoTiff, placeTexts, png, save, sideBySide, toLink } from "./share.js";
import { $, announce, notice } from "./ui.js";

export function takeAlong(app) {
  const { state, drawing, renderer, config } = app;
  const line = () => $("line").textContent;
  const photo = () => {
    if (!state.image) throw new Error("There is no photograph yet; load the network first.");
    return state.image;
  };
  const texts = () => (state.read ? {} : placeTexts(state.place, state.px));
  const placed = (image, description) => {
    if (state.read) throw new Error("The picture is yours and has no place of the drawing; go back to the drawing first.");
    return geoTiff(image(), state.place, description);
  };
  const acts = {
    beside: async () => save(await sideBySide(app.map(), photo(), line()), "side-by-side.png"),
    photo: async () => save(await png(photo(), texts()), "photograph.png"),
    map: async () => save(await png(app.map(), texts()), "map.png"),
    "photo-tif": () => save(placed(photo, "TERRAMORPH_SYNTHETIC=yes"), "photograph.tif"),
    "map-tif": () => save(placed(app.map, "A drawn map"), "map.tif"),
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
    viewer: async () => { location.href = await sent(config.server, placed(app.map, "A drawn map")); },
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
      announce("Placed.");
    } catch (error) { event.preventDefault(); notice(error.message); }
  };
  document.querySelector("[data-take=viewer]").hidden = !config.server;
  $("unless").textContent = config.server ? ", unless you open it in the viewer" : "";
  $("chip").onclick = () => { card(state); $("about").showModal(); };
}

// Sends a map to the server's viewer, as a layer with the model of another; its address there.
async function sent({ viewer, layer }, map) {
  notice("Sending the map to the viewer …");
  const request = { method: "PUT", body: map, headers: { "X-Terramorph": "upload" } };
  const answer = await fetch(`${viewer}uploads?${new URLSearchParams({ layer })}`, request);
  if (answer.status !== 201) throw new Error(await answer.text());
  return `${viewer}#${new URLSearchParams({ layer: (await answer.json()).layer })}`;
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
