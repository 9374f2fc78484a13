// The page: what is drawn, what is asked of the network, and what both are said to be.
import { backendOf, openEngine } from "./engine.js";
import { Drawing, recall, remember } from "./drawing.js";
import { Follower } from "./follow.js";
import { Loading } from "./loading.js";
import { Panes } from "./panes.js";
import { Place } from "./place.js";
import { takeFiles } from "./reading.js";
import { Renderer } from "./render.js";
import { SAMPLES } from "./samples.js";
import { fromLink } from "./share.js";
import { takeAlong } from "./take.js";
import { Pen } from "./tools.js";
import { makeTown } from "./town.js";
import { $, announce, notice, toolbar } from "./ui.js";

const SIZES = [256, 512, 1024];
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

async function readConfig() {
  const within = $("config");
  if (within) return JSON.parse(within.textContent);
  const answer = await fetch(new URL("./draw.json", document.baseURI));
  if (!answer.ok) throw new Error(`draw.json cannot be read (${answer.status}); put all files of the page into one folder.`);
  return answer.json();
}

async function main() {
  const config = await readConfig(), model = config.models.find((one) => one.direction === "map2sat");
  if (!model) throw new Error("This page has no model that makes photographs of maps; make it with one.");
  const metres = model.metres_per_pixel || 1, renderer = new Renderer(config.style, metres);
  const drawing = new Drawing(renderer);
  // made: how something ready-made is made, and its features; photo, read: canvases; image, readImage: ImageData; linked: the
  // features of a link, which do not take the place of the drawing that the browser keeps until somebody draws on them.
  const state = { config, model, px: 256, seed: 0, place: new Place(metres), made: null, image: null, photo: null, read: null, linked: null, answered: [] };

  let pen = null;
  const panes = new Panes($("map"), $("photo"), renderer, () => ({ ...state, features: drawing.features, ink: pen?.ink ?? {} }));
  const follower = new Follower(renderer, {
    wanted: () => ({ features: pen.ink.features ?? drawing.features, side: state.px, seed: state.seed, origin: state.place.origin(state.px) }),
    shown: (image, ms, features) => {
      if (state.read) return;  // a picture was read meanwhile; after it the drawing is asked for again
      const before = ms > 300 && !still && state.photo;
      Object.assign(state, { image, before, since: performance.now(), answered: features, photo: asCanvas(image), about: follower.engine.describe() });
      panes.paint();
      age(ms);
    },
    state: (name, text) => {
      $("working").hidden = name !== "working";
      document.body.dataset.answer = name;
      if (name === "done") loading.done();
      if (name === "failed") loading.failed(text, () => follower.nudge());
    },
  });
  const loading = new Loading(config, model, async (onProgress) => follower.start(await openEngine(config, { onProgress })));
  pen = new Pen(drawing, panes, {
    told: announce,
    changed: () => {
      panes.paint();
      if (pen?.busy && !state.read) follower.nudge(false);
    },
  });

  const app = {
    config, drawing, panes, pen, renderer, state, follower,
    // Another size, seed or place, and all that shows it.
    set(changes) {
      app.unread();
      const before = state.px;
      Object.assign(state, changes);
      if (state.px !== before) {
        panes.show(state.px);
        if (state.made?.features === drawing.features) app.make(state.made.by, "");
      }
      app.refresh();
      follower.nudge();
    },
    town(seed, text = "A town.") { app.make((side) => makeTown(seed, config.town, side), text); },
    sample(name) { app.make(SAMPLES[name], `${name}.`); },
    // Something ready-made, of a side in metres; it grows with the square as long as nobody has touched it.
    make(by, text) {
      const features = by(panes.ground);
      state.made = { by, features };
      app.replace(features, text);
    },
    replace(features, text) {
      app.unread();
      drawing.change(features, text);
      panes.look(1, [0, 0]);
    },
    another() { app.set({ seed: Math.floor(Math.random() * 1e6) + 1 }); announce("Another sample of the same place."); },
    // The drawing again, after a picture was read.
    unread() {
      if (!state.read) return;
      state.read = null;
      $("read").hidden = true;
      $("left-name").textContent = "Your map";
      $("right-name").textContent = "From above";
      honest(model);
      follower.answered = false;
      follower.nudge();
      panes.show(state.px);
      app.refresh();
    },
    settings: () => ({ px: state.px, seed: state.seed, at: state.place.chosen ? state.place.degrees : null }),
    map: () => state.readImage && state.read ? state.readImage : renderer.picture(drawing.features, state.px),
    refresh() {
      const shares = renderer.shares(renderer.picture(drawing.features, state.px), drawing.features);
      const seen = Object.entries(shares).filter(([, share]) => share >= 0.005).sort((a, b) => b[1] - a[1]);
      const words = drawing.words(panes.ground);
      $("words").textContent = `${words[0].toUpperCase()}${words.slice(1)} on ${Math.round(panes.ground)} × ${Math.round(panes.ground)} m: ` +
        `${seen.map(([name, share]) => `${Math.round(100 * share)}\u00a0%\u00a0${name}`).join(", ")}.`;
      tools.update();
      const kept = drawing.features === state.linked || remember(drawing.features, app.settings());
      if (!kept) notice("This browser keeps nothing of this page: save the drawing before you leave.");
    },
  };

  drawing.addEventListener("change", ({ detail }) => {
    app.unread();
    if (detail) announce(detail);
    panes.paint();
    app.refresh();
    follower.nudge();
  });

  const tools = toolbar(app);
  takeAlong(app);
  takeFiles(app, openEngine);
  await begin(app, true);
  honest(model);
  addEventListener("hashchange", () => begin(app, false));
  loading.offer(await backendOf(config));
  document.body.dataset.ready = "yes";

  function age(ms) {
    const { backend, threads, isolated } = state.about;
    const how = backend === "webgpu" ? "WebGPU" : `wasm, ${threads} thread${threads === 1 ? "" : "s"}`;
    $("threads").textContent = isolated || backend === "webgpu" ? "" : "One thread: a page gets more from a server that isolates it (the headers COOP and COEP). ";
    $("age").textContent = `${(ms / 1000).toFixed(ms < 1000 ? 2 : 1)} s on your device, ${how}. Sample ${state.seed}.`;
    $("photo").setAttribute("aria-label", `Satellite image of the drawing, invented by a network: ${drawing.words(panes.ground)}`);
  }
}

// What the page begins with: the drawing of the last visit, or a sample. A link's drawing is a step from there.
async function begin(app, first) {
  const { drawing, state, panes, renderer } = app, own = first ? recall() : null;
  let link = null;
  try { link = await fromLink(location.hash); } catch (error) { notice(error.message); }
  const take = (kept, said) => {
    if (SIZES.includes(kept.px)) state.px = kept.px;
    if (Number.isInteger(kept.seed) && kept.seed >= 0) state.seed = kept.seed;
    try { state.place = new Place(renderer.metres, kept.at ?? null); } catch { /* no place on Earth: where all begin */ }
    panes.show(state.px);
    drawing.change(kept.features, said);
  };
  if (own) take(own);
  if (link) {
    history.replaceState(null, "", location.pathname + location.search);
    state.linked = link.features;
    take(link, "The drawing of a link.");
  } else if (first && !own) {
    panes.show(state.px);
    app.sample("Crossroads");
  }
  if (first) drawing.past = own && link ? [own.features] : [];
  app.refresh();
}

function honest(model) {
  const on = (model.trained_on ?? "").replaceAll("`", "").split(/, | \(/)[0].trim();
  $("line").textContent = `Invented by a network${on ? ` trained on ${on[0].toLowerCase()}${on.slice(1)}` : ""}. Not a real place.`;
}

function asCanvas(image) {
  const found = new OffscreenCanvas(image.width, image.height);
  found.getContext("2d").putImageData(image, 0, 0);
  return found;
}

main().catch((error) => {
  $("card-title").textContent = "The page cannot start";
  $("card-text").textContent = error.message;
  $("card").dataset.bad = "yes";
});
