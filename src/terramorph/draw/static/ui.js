// Buttons, keys, menus and forms.
import { feature } from "./drawing.js";
import { rectangle } from "./geometry.js";
import { SAMPLES } from "./samples.js";
import { TOOLS } from "./tools.js";
import { makeTown, seedOf } from "./town.js";

export const $ = (id) => document.getElementById(id);

export function announce(text) { $("live").textContent = text; }

let noticed = 0;
export function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  clearTimeout(noticed);
  noticed = setTimeout(() => { $("notice").hidden = true; }, 6000);
}

// All controls of the page; gives {update()}, which shows what is set.
export function toolbar(app) {
  const { drawing, pen, state, panes } = app;
  const update = () => {
    $("undo").disabled = !drawing.past.length;
    $("redo").disabled = !drawing.future.length;
    $("clear").disabled = !drawing.features.length;
    for (const button of $("tools").children) {
      const chosen = button.dataset.tool === pen.tool.id;
      button.setAttribute("aria-checked", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
    }
    $("stage").dataset.tool = pen.tool.id;
    $("form-of").disabled = !pen.tool.kind;
    const shapes = pen.tool.shape === "area" ? "Rectangle" : "Straight";
    $("form-of").querySelector("[value=straight] + span").textContent = shapes;
    $("form-of").querySelector(`[value=${pen.isStraight ? "straight" : "free"}]`).checked = true;
    $("sizes").querySelector(`[value="${state.px}"]`).checked = true;
  };
  const choose = (id) => { pen.choose(id); update(); announce(pen.tool.title); };
  makeTools(app, choose);
  makeSamples(app);
  makeForm(app);

  $("undo").onclick = () => drawing.undo();
  $("redo").onclick = () => drawing.redo();
  $("clear").onclick = () => drawing.clear();
  $("town").onclick = () => app.town(Math.floor(Math.random() * 2 ** 31));
  $("again").onclick = () => app.another();
  $("unread").onclick = () => app.unread();
  $("help").onclick = () => $("keys").showModal();
  for (const input of $("form-of").querySelectorAll("input")) input.onchange = () => { pen.isStraight = input.value === "straight"; };
  for (const input of $("sizes").querySelectorAll("input")) input.onchange = () => app.set({ px: Number(input.value) });
  for (const input of $("modes").querySelectorAll("input")) input.onchange = () => mode(input.value);
  const swiped = makeSwipe(panes);
  const mode = (name) => {
    $("stage").dataset.mode = name;
    $("handle").hidden = name !== "swipe";
    $("modes").querySelector(`[value=${name}]`).checked = true;
    panes.paint();
  };
  addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target) || event.target.closest(".sheet button, .sheet a")) menu.open = false;
    }
  });
  const acts = {
    x: () => drawing.clear(), t: () => $("town").click(), n: () => app.another(), f: () => { pen.isStraight = !pen.isStraight; update(); },
    s: () => mode($("stage").dataset.mode === "swipe" ? "beside" : "swipe"), "?": () => $("keys").showModal(),
    "+": () => panes.zoomAt(1.5, panes.middle), "=": () => panes.zoomAt(1.5, panes.middle), "-": () => panes.zoomAt(1 / 1.5, panes.middle),
    0: () => panes.look(1, [0, 0]), "[": () => swiped(-1), "]": () => swiped(1), "{": () => swiped(-10), "}": () => swiped(10),
    o: () => $("choose").click(),
    ...Object.fromEntries(TOOLS.map(({ id, key }) => [key, () => choose(id)])),
  };
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.firstElementChild.focus(); }
    if (event.target.matches("input:not([type=radio]), select, textarea")) return;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") { event.preventDefault(); if (event.shiftKey) drawing.redo(); else drawing.undo(); }
    else if ((event.ctrlKey || event.metaKey) && event.key === "y") { event.preventDefault(); drawing.redo(); }
    else if (!event.ctrlKey && !event.metaKey && !event.altKey && acts[event.key]) { event.preventDefault(); acts[event.key](); }
  });
  keyList();
  update();
  return { update };
}

function makeTools(app, choose) {
  const { panes, renderer } = app;
  $("tools").replaceChildren(...TOOLS.map(({ id, key, title, kind, shape }) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", title: `${title} (${key})`, onclick: () => choose(id) });
    button.dataset.tool = id;
    button.setAttribute("role", "radio");
    if (kind) button.append(icon(renderer, kind, shape));
    else {
      button.innerHTML = id === "eraser" ? '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="m14 4 6 6-9 10H7l-4-4Zm-6 6.500 6 6M10 20h10"/></svg>'
        : '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3"/></svg>';
    }
    button.append(title);
    return button;
  }));
  $("tools").onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...$("tools").children], next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.click();
    next.focus();
  };
  panes.paint();
}

// A tool's picture: what it draws, in the style of the map.
function icon(renderer, kind, shape) {
  const canvas = document.createElement("canvas"), size = 68, ground = 46;
  canvas.width = canvas.height = size;
  canvas.setAttribute("aria-hidden", "true");
  const round = [[-15, -4], [-8, -14], [6, -13], [15, -3], [11, 11], [-3, 15], [-13, 8]];
  const points = shape === "line" ? [[-30, 16], [-10, 8], [8, -6], [30, -18]] : kind === "building" ? rectangle([-13, -10], [13, 10], 0.3) : round;
  renderer.draw(canvas.getContext("2d"), [feature(kind, shape, points)], { left: -ground / 2, top: -ground / 2, scale: size / ground }, size, size);
  return canvas;
}

function makeSamples(app) {
  const { renderer, panes } = app;
  const entries = [...Object.keys(SAMPLES).map((name) => [name, () => SAMPLES[name](256 * renderer.metres), () => app.sample(name)]),
    ["My town", () => makeTown(seedOf("my town"), app.config.town, 256 * renderer.metres), () => $("naming").showModal()]];
  const fill = () => $("sample-list").replaceChildren(...entries.map(([name, features, act]) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button";
    canvas.width = canvas.height = 256;
    canvas.setAttribute("aria-hidden", "true");
    const side = 256 * renderer.metres;
    renderer.draw(canvas.getContext("2d"), features(), { left: -side / 2, top: -side / 2, scale: 256 / side }, 256, 256);
    button.append(canvas, name);
    button.onclick = act;
    return button;
  }));
  $("samples").addEventListener("toggle", () => { if ($("samples").open && !$("sample-list").children.length) fill(); });
  $("naming-form").onsubmit = (event) => {
    if (event.submitter?.value !== "ok") return;
    app.town(seedOf($("naming-name").value), `The town of ${$("naming-name").value}.`);
  };
  panes.paint();
}

const SPOTS = { "north-west": [0, 0], north: [50, 0], "north-east": [100, 0], west: [0, 50], centre: [50, 50], center: [50, 50], middle: [50, 50],
  east: [100, 50], "south-west": [0, 100], south: [50, 100], "south-east": [100, 100] };

// Metres of a place in words or in per cent of the square.
export function placeOf(text, ground) {
  const numbers = text.split(/[,;\s]+/).filter(Boolean).map(Number);
  const spot = SPOTS[text.trim().toLowerCase()] ?? (numbers.length === 2 && numbers.every((n) => n >= 0 && n <= 100) ? numbers : null);
  if (!spot) throw new Error(`"${text}" is no place; write north-east, or two numbers from 0 to 100 such as 30, 75.`);
  return spot.map((value) => (value / 100 - 0.5) * ground);
}

function makeForm(app) {
  const { drawing, panes } = app;
  $("form-kind").replaceChildren(...TOOLS.filter((one) => one.kind).map(({ id, title }) => new Option(title.toLowerCase(), id)));
  $("form").onsubmit = (event) => {
    event.preventDefault();
    const { kind, shape } = TOOLS.find((one) => one.id === $("form-kind").value);
    try {
      const ends = ["form-from", "form-to"].map((id) => placeOf($(id).value, panes.ground)), [a, b] = ends;
      if (Math.hypot(b[0] - a[0], b[1] - a[1]) < 4 || (shape === "area" && (a[0] === b[0] || a[1] === b[1]))) {
        throw new Error(shape === "area" ? "An area needs two opposite corners." : "A line needs two places.");
      }
      const edge = panes.ground / 2 - 1, beyond = 1 + 60 / Math.hypot(b[0] - a[0], b[1] - a[1]);
      const on = (from, to) => (Math.max(...to.map(Math.abs)) < edge ? to : to.map((value, i) => from[i] + (value - from[i]) * beyond));
      drawing.add(feature(kind, shape, shape === "area" ? rectangle(a, b) : [on(b, a), on(a, b)]));
    } catch (error) { notice(error.message); }
  };
}

// The handle between map and photograph; gives a function that moves it by so many per cent.
function makeSwipe(panes) {
  const handle = $("handle"), stage = $("stage");
  let at = 50;
  const to = (value) => {
    at = Math.min(100, Math.max(0, value));
    stage.style.setProperty("--at", `${at}%`);
    handle.setAttribute("aria-valuenow", String(Math.round(at)));
    handle.setAttribute("aria-valuetext", `${Math.round(at)} % map, the rest photograph`);
  };
  handle.onpointerdown = (event) => { handle.setPointerCapture(event.pointerId); event.preventDefault(); handle.focus(); };
  handle.onpointermove = (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = panes.map.getBoundingClientRect();
    to(100 * (event.clientX - box.left) / box.width);
  };
  handle.onkeydown = (event) => {
    const step = event.shiftKey ? 10 : 1;
    const next = { ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step, Home: 0, End: 100 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    to(next);
  };
  to(50);
  return (by) => to(at + by);
}

function keyList() {
  const rows = [...TOOLS.map(({ key, title }) => [[key], title.toLowerCase()]), [["f"], "freehand or straight"], [["Shift"], "the other way, while you draw"],
    [["Ctrl Z", "Ctrl Shift Z"], "undo, redo"], [["x"], "clear"], [["t"], "random town"], [["n"], "another sample of the same place"],
    [["s"], "beside or swipe"], [["[", "]"], "move the swipe; with Shift ten times as far"], [["+", "-", "0"], "zoom in, out, all"], [["o"], "open a file"],
    [["← ↑ → ↓", "Space", "Enter"], "on the map: move the crosshair, set a point, finish"]];
  $("key-list").replaceChildren(...rows.flatMap(([keys, what]) => {
    const term = document.createElement("dt"), text = document.createElement("dd");
    keys.forEach((key) => { const cap = document.createElement("kbd"); cap.textContent = key; term.append(cap, " "); });
    text.textContent = what;
    return [term, text];
  }));
}
