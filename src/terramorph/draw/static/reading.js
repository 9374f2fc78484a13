// Files of one's own: a GeoJSON becomes the drawing; an aerial picture goes the other way, where that model is on board.
import { fromGeoJson } from "./geojson.js";
import { size } from "./loading.js";
import { $, notice } from "./ui.js";

const LARGEST = 1024;  // pixels of a side of a picture that is read

export function takeFiles(app, openEngine) {
  const { state, config, renderer } = app;
  const back = config.models.find((one) => one.direction === "sat2map");
  let engine = null;
  if (!back) {
    $("back-title").textContent = "A drawing of yours";
    $("reverse-text").textContent = "Drop a GeoJSON on the page: a drawing that was saved here, or an export of OpenStreetMap.";
    $("choose").textContent = "Choose a GeoJSON";
    $("file").accept = ".geojson,.json";
    $("drop").textContent = "Drop a GeoJSON";
  }

  async function take(file) {
    try {
      if (/json$/i.test(file.type) || /json$/i.test(file.name)) await drawingOf(file);
      else if (back) await mapOf(file);
      else throw new Error("This page has no model that reads pictures; drop a GeoJSON.");
    } catch (error) { if (error.name !== "AbortError") notice(error.message); }
  }

  async function drawingOf(file) {
    let json;
    try { json = JSON.parse(await file.text()); } catch { throw new Error(`${file.name} is no JSON; give a GeoJSON.`); }
    const { features, place, side, skipped, far } = fromGeoJson(json, renderer, config.table ?? []);
    if (!features.length) throw new Error(`No feature of ${file.name} has a kind that is drawn, such as road or park, or such tags of OpenStreetMap.`);
    app.set({ place, px: [256, 512, 1024].includes(side) ? side : state.px });
    app.replace(features, `${file.name} opened.`);
    const left = [skipped && `${skipped} without a kind that is drawn`, far && `${far} too far from the middle`].filter(Boolean);
    if (left.length) notice(`Features left out: ${left.join(", ")}.`);
  }

  async function mapOf(file) {
    let bitmap;
    try { bitmap = await createImageBitmap(file); } catch { throw new Error(`${file.name} is no picture that this browser reads; give a PNG or JPEG.`); }
    const least = Math.min(bitmap.width, bitmap.height), px = Math.min(least, LARGEST), canvas = new OffscreenCanvas(px, px);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.imageSmoothingQuality = "high";
    pen.drawImage(bitmap, (bitmap.width - least) / 2, (bitmap.height - least) / 2, least, least, 0, 0, px, px);
    const picture = pen.getImageData(0, 0, px, px);
    const told = (loaded, total) => notice(loaded < total ? `Loading the network that reads pictures: ${size(loaded)} of ${size(total)}` : `Reading ${file.name} …`);
    told(1, 1);
    engine ??= await openEngine(config, { onProgress: told, direction: "sat2map" });
    const map = await engine.translate(picture, { seed: state.seed, origin: [0, 0] });
    const read = new OffscreenCanvas(px, px);
    read.getContext("2d").putImageData(map, 0, 0);
    Object.assign(state, { read, readImage: map, image: picture, photo: canvas });
    $("read").hidden = false;
    $("card").hidden = true;
    $("left-name").textContent = "Its map";
    $("right-name").textContent = "Your picture";
    $("line").textContent = `Map read from ${file.name} by a network, which may be wrong.`;
    $("words").textContent = $("age").textContent = "";
    app.panes.show(px);
    notice(least > LARGEST ? `The picture was made smaller, to ${LARGEST} pixels; the network reads best at its own scale.` : "");
  }

  $("choose").onclick = () => $("file").click();
  $("file").onchange = () => { if ($("file").files.length) take($("file").files[0]); $("file").value = ""; };
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  let within = 0;
  const hint = (seen) => { $("drop").hidden = !seen; };
  addEventListener("dragenter", (event) => { if (carries(event)) { within++; hint(true); } });
  addEventListener("dragleave", (event) => { if (carries(event)) { within = Math.max(0, within - 1); hint(within > 0); } });
  addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    within = 0;
    hint(false);
    if (event.dataTransfer.files.length === 1) take(event.dataTransfer.files[0]);
    else notice("Drop one file at a time.");
  });
}
