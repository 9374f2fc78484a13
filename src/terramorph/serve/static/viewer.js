// The viewer: two synchronous maps, one above the other, of the views of one layer.
import * as maplibregl from "./vendor/maplibre-gl/maplibre-gl.mjs";
import { takeUploads } from "./upload.js";

const $ = (id) => document.getElementById(id);
const EMPTY = { name: "", title: "", views: [], classes: [], about: {}, bounds: [0, 0, 0, 0], native: 0 };
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const state = { layers: [], layer: EMPTY, left: "input", right: "output", mode: "swipe", at: 50, shown: "right", opacity: 60 };
const maps = {}, files = new Map();
let waiting = 0, busy = 0, offline = false;

// Tiles come through a protocol of our own: a server that is busy says when to ask again, and the map would not.
maplibregl.addProtocol("tm", async ({ url }, abort) => {
  const path = new URL(url.replace("tm://", ""), document.baseURI);
  waiting++; told();
  try {
    for (;;) {
      let answer;
      try {
        answer = await fetch(path, { signal: abort.signal });
        offline = false;
      } catch (error) {
        if (abort.signal.aborted) throw error;
        offline = true; told();
        await pause(2000, abort.signal);
        continue;
      }
      if (answer.status === 503 || answer.status === 429) {
        busy = Number(answer.headers.get("Retry-After") || 2); told();
        await pause(1000 * busy * (0.5 + Math.random()), abort.signal);
        continue;
      }
      busy = 0;
      if (!answer.ok) throw new Error(await answer.text());
      return { data: await answer.arrayBuffer() };
    }
  } finally { waiting--; told(); }
});

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

function view(name) { return state.layer.views.find((one) => one.name === name); }

// The input lies under everything, so that there is something to see while the model computes.
function style(name) {
  const sources = {}, layers = [{ id: "ground", type: "background", paint: { "background-color": color("--ground") } }];
  const [west, south, east, north] = state.layer.bounds;
  const bounds = west < -180 || east > 180 ? [-180, south, 180, north] : state.layer.bounds;  // MapLibre's do not wrap
  for (const one of new Set(["input", name])) {
    const found = view(one);
    if (!found) continue;
    sources[one] = { type: "raster", tiles: [`tm://${found.tiles}`], tileSize: 256, minzoom: found.minzoom,
      maxzoom: found.maxzoom, bounds };
    layers.push({ id: one, type: "raster", source: one,
      paint: { "raster-fade-duration": still ? 0 : 250, "raster-resampling": "linear" } });
  }
  return { version: 8, sources, layers };
}

function shows(side) { return `${state.layer.identity} ${state[side]} ${color("--ground")}`; }

function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function makeMaps() {
  const [west, south, east, north] = state.layer.bounds;
  for (const side of ["left", "right"]) {
    maps[side] = new maplibregl.Map({
      container: $(side), style: style(state[side]), attributionControl: false, dragRotate: false, touchPitch: false,
      pitchWithRotate: false, fadeDuration: still ? 0 : 300, maxZoom: state.layer.native + 3,
      canvasContextAttributes: { preserveDrawingBuffer: true },  // for the picture that is saved
    });
    maps[side].shows = shows(side);
    maps[side].touchZoomRotate.disableRotation();
    for (const [event, idle] of [["render", ""], ["idle", "yes"]]) {
      maps[side].on(event, () => { $(side).dataset.idle = idle; });
    }
    maps[side].on("click", (event) => inspect(event.lngLat));
  }
  const follow = (from, to) => {
    let moving = false;
    from.on("move", () => {
      if (from.following) return;
      to.following = true;
      to.jumpTo({ center: from.getCenter(), zoom: from.getZoom() });
      to.following = false;
      if (!moving) { moving = true; requestAnimationFrame(() => { moving = false; where(); }); }
    });
    from.on("moveend", () => { if (!from.following) { remember(); where(); } });
  };
  follow(maps.left, maps.right); follow(maps.right, maps.left);
  const start = fromHash();
  if (start.map) maps.left.jumpTo({ center: [start.map[2], start.map[1]], zoom: start.map[0] });
  else {
    maps.left.jumpTo({ center: [(west + east) / 2, (south + north) / 2], zoom: state.layer.native - 1 });
    const whole = maps.left.cameraForBounds([[west, south], [east, north]], { padding: 20 });
    if (whole && whole.zoom > state.layer.native - 1) maps.left.jumpTo(whole);
  }
}

function show() {
  for (const side of ["left", "right"]) {
    if (maps[side].shows !== shows(side)) maps[side].setStyle(style(state[side]), { diff: false });
    maps[side].shows = shows(side);
    $(`${side}-view`).value = state[side];
    $(`${side}-name`).textContent = view(state[side])?.title ?? "";
  }
  arrange();
  legend();
  remember();
}

function arrange() {
  const { mode, at, shown } = state, right = $("right"), left = $("left");
  $("handle").hidden = mode !== "swipe";
  $("opacity-field").hidden = mode !== "opacity";
  right.style.opacity = mode === "opacity" ? state.opacity / 100 : 1;
  right.style.visibility = mode === "blink" && shown === "left" ? "hidden" : "visible";
  left.style.right = mode === "beside" ? "50%" : "0"; right.style.left = mode === "beside" ? "50%" : "0";
  const part = shown === "right" ? at : 100;
  right.style.clipPath = mode === "swipe" ? `inset(0 0 0 ${part}%)` : "none";
  $("handle").style.left = `${at}%`;
  $("handle").setAttribute("aria-valuenow", Math.round(at));
  $("handle").setAttribute("aria-valuetext", `${Math.round(at)} % ${view(state.left)?.title}, the rest ${view(state.right)?.title}`);
  for (const side of ["left", "right"]) maps[side].resize();
}

function swipe(at) { state.at = Math.min(100, Math.max(0, at)); state.shown = "right"; arrange(); }

function legend() {
  const classes = state.layer.classes;
  $("legend").hidden = !classes.length;
  $("legend").querySelector("ul").replaceChildren(...classes.map((one) => {
    const item = document.createElement("li");
    item.append(swatch(one.colour), one.name);
    return item;
  }));
}

function swatch(colour) {
  const box = document.createElement("i");
  box.style.background = colour;
  return box;
}

// Side of a pixel of zoom z, in metres on the ground: MapLibre counts zooms of 512 px.
function metres(latitude, zoom) { return 40075016.686 / 512 / 2 ** zoom * Math.cos(latitude * Math.PI / 180); }

function where() {
  const centre = maps.left.getCenter(), zoom = maps.left.getZoom(), here = metres(centre.lat, zoom);
  const wanted = here * 90, power = 10 ** Math.floor(Math.log10(wanted));
  const length = power * (wanted / power >= 5 ? 5 : wanted / power >= 2 ? 2 : 1);
  $("scale").style.width = `${length / here}px`;
  $("scale").textContent = length >= 1000 ? `${length / 1000} km` : `${length} m`;
  const own = state.layer.about.ground_resolution;
  $("where").textContent = `${here.toFixed(2)} m a pixel${own ? `, the model's ${own.toFixed(2)} m` : ""}`;
  $("rights").textContent = [state.layer.attribution, "MapLibre"].filter(Boolean).join(" | ");
  const bounds = maps.left.getBounds(), query = new URLSearchParams({ layer: state.layer.name, view: state.right,
    bbox: [bounds.getWest(), bounds.getSouth(), bounds.getEast(), bounds.getNorth()].map((v) => v.toFixed(6)).join(",") });
  $("tif").href = `export?${query}`;
  told();
}

function told() {
  if (!maps.left) return;
  const low = [state.left, state.right].map((name) => view(name)?.minzoom ?? 0);  // 0 of what is not computed
  const far = Math.round(maps.left.getZoom()) + 1 < Math.max(...low);
  const text = offline ? "The server does not answer; trying again." : far ? "Zoom in to translate."
    : busy ? `The server is busy; asking again in ${busy} s.` : "";
  $("notice").hidden = !text;
  $("notice").textContent = text;
  $("work").textContent = waiting ? `${waiting} tiles to come` : "";
}

let spoken = 0;
setInterval(() => {
  if (spoken && !waiting) $("live").textContent = "All tiles are there.";
  spoken = waiting;
}, 1500);

// A term and its text, with a swatch of a colour if there is one; nothing where there is no text.
function row(list, name, value, colour) {
  if (value === null || value === undefined || value === "") return;
  const term = document.createElement("dt"), text = document.createElement("dd");
  term.textContent = name;
  if (colour) text.append(swatch(colour));
  text.append(value);
  list.append(term, text);
}

async function inspect(place) {
  const query = new URLSearchParams({ layer: state.layer.name, lon: place.lng.toFixed(7), lat: place.lat.toFixed(7) });
  $("point").textContent = "Reading …";
  try {
    const answer = await fetch(`point?${query}`);
    if (!answer.ok) throw new Error(await answer.text());
    const found = await answer.json(), list = document.createElement("dl");
    row(list, "Place", `${found.lat.toFixed(5)}, ${found.lon.toFixed(5)}`);
    row(list, found.crs, `${found.x.toFixed(1)}, ${found.y.toFixed(1)}`);
    for (const name of ["input", "output", "truth"]) {
      if (!(name in found)) continue;
      const values = found[name];
      const colour = values?.length === 3 && values.every((v) => v >= 0 && v <= 255) ? `rgb(${values.join(" ")})` : "";
      row(list, name[0].toUpperCase() + name.slice(1), values ? values.map((v) => +v.toPrecision(5)).join(", ") : "no data", colour);
    }
    if (found.class) row(list, "Class", found.class, state.layer.classes.find((one) => one.name === found.class)?.colour);
    $("point").replaceChildren(list);
  } catch (error) { $("point").textContent = error.message; }
  if ($("fold").checkVisibility() && $("panel").classList.contains("folded")) $("fold").click();  // on a narrow page
  $("point").parentElement.scrollIntoView({ block: "nearest" });
}

function picture() {
  const base = maps.left.getCanvas(), canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const stage = $("stage"), ratio = devicePixelRatio;
  canvas.width = stage.clientWidth * ratio; canvas.height = stage.clientHeight * ratio;
  pen.drawImage(base, 0, 0);
  const { mode, at, shown } = state, over = maps.right.getCanvas();
  if (mode === "beside") pen.drawImage(over, canvas.width - over.width, 0);
  else if (mode === "opacity") { pen.globalAlpha = state.opacity / 100; pen.drawImage(over, 0, 0); pen.globalAlpha = 1; }
  else if (mode === "swipe") {
    const x = Math.round(canvas.width * (shown === "right" ? at : 100) / 100);
    if (x < canvas.width) pen.drawImage(over, x, 0, over.width - x, over.height, x, 0, over.width - x, over.height);
  } else if (shown === "right") pen.drawImage(over, 0, 0);
  const text = `${view(state.left)?.title} | ${view(state.right)?.title}: generated, not observed. ${$("scale").textContent} ` +
    `= ${Math.round(parseFloat($("scale").style.width))} px. ${$("rights").textContent}`;
  pen.font = `${12 * ratio}px system-ui, sans-serif`;
  pen.fillStyle = "#000b"; pen.fillRect(0, canvas.height - 22 * ratio, canvas.width, 22 * ratio);
  pen.fillStyle = "#fff"; pen.fillText(text, 8 * ratio, canvas.height - 7 * ratio);
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob); link.download = `${state.layer.name}.png`; link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

function card() {
  const about = state.layer.about, list = document.createElement("dl"), box = $("card").querySelector("div");
  row(list, "Model", about.model); row(list, "Digest", about.digest); row(list, "Note", about.note);
  row(list, "Ground resolution", about.ground_resolution ? `${about.ground_resolution.toFixed(2)} m a pixel` : "");
  for (const [name, value] of Object.entries(about.data ?? {})) row(list, `Trained: ${name}`, Array.isArray(value) ? value.join(", ") : String(value));
  for (const [name, value] of Object.entries(about.scores ?? {})) row(list, name, Number(value).toPrecision(3));
  const text = document.createElement("p");
  text.textContent = "A network made this picture from the input. It shows what the model expects there, and nobody has seen it.";
  box.replaceChildren(text, list);
  $("card").showModal();
}

function fromHash() {
  const found = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const map = (found.map ?? "").split("/").map(Number);
  return { ...found, map: map.length === 3 && map.every(Number.isFinite) ? map : null };
}

let last = "";
function remember() {
  const centre = maps.left.getCenter();
  const hash = `#map=${maps.left.getZoom().toFixed(2)}/${centre.lat.toFixed(5)}/${centre.lng.toFixed(5)}&l=${state.left}` +
    `&r=${state.right}&s=${Math.round(state.at)}&layer=${state.layer.name}&mode=${state.mode}&m=${state.layer.identity.slice(0, 8)}`;
  if (hash !== last) { last = hash; history.replaceState(null, "", hash); }
}

function choose(name) {
  state.layer = state.layers.find((one) => one.name === name) ?? state.layers[0];
  for (const side of ["left", "right"]) {
    $(`${side}-view`).replaceChildren(...state.layer.views.map((one) => new Option(one.title, one.name)));
    if (!view(state[side])) state[side] = side === "left" ? "input" : "output";
  }
  $("layer").value = state.layer.name;
  $("qlr").href = `layers/${state.layer.name}.qlr`;
}

function turnTo(name) {
  choose(name);
  const [west, south, east, north] = state.layer.bounds;
  maps.left.setMaxZoom(state.layer.native + 3); maps.right.setMaxZoom(state.layer.native + 3);
  maps.left.jumpTo({ center: [(west + east) / 2, (south + north) / 2], zoom: state.layer.native - 1 });
  show();
}

// The layers that all see, and those that only who knows their names does: the uploads so far, and one more.
async function readLayers(also) {
  const names = new Set([...state.layers.map((one) => one.name), also].filter((name) => name?.startsWith("upload-")));
  const answer = await fetch(`layers?${new URLSearchParams([...names].map((name) => ["also", name]))}`);
  if (!answer.ok) throw new Error(await answer.text());
  const found = await answer.json();
  state.layers = found.layers;
  $("layer").replaceChildren(...state.layers.map((one) => new Option(files.get(one.name) ?? one.title, one.name)));
  return found.uploads;
}

function listen() {
  $("layer").onchange = () => turnTo($("layer").value);
  for (const side of ["left", "right"]) $(`${side}-view`).onchange = (event) => { state[side] = event.target.value; show(); };
  for (const input of document.querySelectorAll("[name=mode]")) input.onchange = () => mode(input.value);
  $("opacity").oninput = (event) => { state.opacity = Number(event.target.value); arrange(); };
  $("png").onclick = picture; $("chip").onclick = card; $("help").onclick = () => $("keys").showModal();
  $("fold").onclick = () => {
    const folded = $("panel").classList.toggle("folded");
    $("fold").setAttribute("aria-expanded", String(!folded));
    $("fold").textContent = folded ? "▴" : "▾";
  };
  const handle = $("handle");
  handle.onpointerdown = (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); };
  handle.onpointermove = (event) => {
    if (handle.hasPointerCapture(event.pointerId)) swipe(100 * event.clientX / $("stage").clientWidth);
  };
  handle.onpointerup = remember;
  handle.onkeydown = (event) => {
    const step = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: state.at - step, ArrowDown: state.at - step, ArrowRight: state.at + step,
      ArrowUp: state.at + step, Home: 0, End: 100 }[event.key];
    if (to === undefined) return;
    event.preventDefault(); swipe(to); remember();
  };
  addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey) return;
    const number = Number(event.key);
    if (event.key === "[" || event.key === "{") { swipe(state.at - (event.shiftKey ? 10 : 1)); remember(); }
    else if (event.key === "]" || event.key === "}") { swipe(state.at + (event.shiftKey ? 10 : 1)); remember(); }
    else if (event.key === " " && !event.target.matches("button, a")) { event.preventDefault(); state.shown = state.shown === "left" ? "right" : "left"; arrange(); }
    else if (event.key === "i") inspect(maps.left.getCenter());
    else if (event.key === "e") picture();
    else if (event.key === "?") $("keys").showModal();
    else if (number >= 1 && number <= state.layer.views.length) { state.right = state.layer.views[number - 1].name; show(); }
  });
  addEventListener("hashchange", () => {
    const { map } = fromHash();
    if (location.hash !== last && map) maps.left.jumpTo({ center: [map[2], map[1]], zoom: map[0] });
  });
}

function mode(name) {
  state.mode = name; state.shown = "right";
  document.querySelector(`[name=mode][value=${name}]`).checked = true;
  arrange(); remember();
}

// Without WebGL there is no map, but there are tiles.
function stillImages() {
  const [west, south, east, north] = state.layer.bounds, zoom = state.layer.native, count = 2 ** zoom;
  const latitude = (south + north) / 2 * Math.PI / 180;
  const x = Math.floor(((west + east) / 2 + 180) / 360 * count), y = Math.floor((1 - Math.asinh(Math.tan(latitude)) / Math.PI) / 2 * count);
  const box = document.createElement("div"), text = document.createElement("p");
  box.className = "still";
  text.textContent = "This browser has no WebGL, which the map needs: here is its middle.";
  box.append(text, ...["input", "output"].map((name) => {
    const image = new Image();
    image.alt = view(name).title;
    image.src = view(name).tiles.replace("{z}", zoom).replace("{x}", x).replace("{y}", `${y}@2x`);
    return image;
  }));
  $("stage").replaceChildren(box);
  $("tools").hidden = $("fold").hidden = true;  // they are the map's
}

async function main() {
  const start = fromHash(), uploads = await readLayers(start.layer);
  for (const [key, name] of [["left", "l"], ["right", "r"]]) if (start[name]) state[key] = start[name];
  if (start.s) state.at = Math.min(100, Math.max(0, Number(start.s) || 50));
  choose(start.layer);
  const canvas = document.createElement("canvas");
  if (!canvas.getContext("webgl2")) { stillImages(); return; }
  makeMaps();
  listen();
  if (uploads) takeUploads(uploads.mb, () => state.layer.name, async (name, file) => {
    files.set(name, file);  // the server does not know it
    await readLayers(name);
    turnTo(name);
  });
  if (matchMedia("(max-width: 700px)").matches) $("fold").click();
  if (["swipe", "beside", "blink", "opacity"].includes(start.mode)) mode(start.mode);
  show(); where();
  if (start.m && start.m !== state.layer.identity.slice(0, 8)) $("live").textContent = "This link was made with an older model.";
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  document.body.dataset.ready = "yes";
}

main().catch((error) => {
  $("panel").classList.add("folded");  // on a narrow page it lies over the notice
  $("notice").hidden = false; $("notice").textContent = `The layers cannot be read: ${error.message}`;
});
