// The drawing: features that never change, in lists that never change, so a step back is the list before.
import { inside, meets, nearestOnLine } from "./geometry.js";

const STEPS = 100, KEY = "terramorph.drawing";
const WORDS = { road: "road", arterial: "arterial", highway: "highway", rail: "railway", park: "park", building: "building",
  water: "water" };

// A feature: kind is a word of the style, shape "line" or "area", points in metres from the middle.
export function feature(kind, shape, points) {
  return Object.freeze({ kind, shape, points: Object.freeze(points.map(([x, y]) => Object.freeze([tidy(x), tidy(y)]))) });
}

const tidy = (value) => Math.round(value * 10) / 10;  // a link and the storage hold decimetres

export class Drawing extends EventTarget {
  constructor(renderer) {
    super();
    this.renderer = renderer;
    this.features = [];
    this.past = [];
    this.future = [];
  }

  // Another list of features, as one step.
  change(features, said = "") {
    if (features === this.features) return;
    this.past = [...this.past.slice(1 - STEPS), this.features];
    this.future = [];
    this.#show(features, said);
  }

  add(...features) { this.change([...this.features, ...features], said(features)); }

  clear() { if (this.features.length) this.change([], "Cleared."); }

  undo() { return this.#step(this.past, this.future, "Undone."); }

  redo() { return this.#step(this.future, this.past, "Done again."); }

  #step(from, to, text) {
    if (!from.length) return false;
    to.push(this.features);
    this.#show(from.pop(), text);
    return true;
  }

  #show(features, text) {
    this.features = features;
    this.dispatchEvent(new CustomEvent("change", { detail: text }));
  }

  // The features at a place, those on top last.
  at(place, reach) {
    return this.features.filter((one) => {
      if (!meets(this.renderer.reach(one), [place[0] - reach, place[1] - reach, place[0] + reach, place[1] + reach])) return false;
      if (one.shape === "area") return inside(one.points, place) || nearestOnLine([...one.points, one.points[0]], place).away < reach;
      return nearestOnLine(one.points, place).away < this.renderer.width(one.kind) / 2 + reach;
    });
  }

  // The nearest place on a line of a road, with its direction; null where none is within reach metres.
  road(place, reach) {
    let best = null;
    for (const one of this.features) {
      if (one.shape !== "line" || one.kind === "water" || one.kind === "rail") continue;
      const found = nearestOnLine(one.points, place);
      if (found.away <= (best?.away ?? reach)) best = found;
    }
    return best;
  }

  // What is drawn in a square of `side` metres, in words.
  words(side) {
    const half = side / 2, seen = this.features.filter((one) => meets(this.renderer.reach(one), [-half, -half, half, half]));
    return counted(seen) || "nothing";
  }
}

function counted(features) {
  const counts = new Map();
  for (const { kind, shape } of features) {
    const word = kind === "water" ? (shape === "line" ? "river" : "water area") : WORDS[kind] ?? kind;
    counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return [...counts].map(([word, n]) => `${n} ${word}${n === 1 ? "" : "s"}`).join(", ");
}

function said(features) { return `Added: ${counted(features)}.`; }

// A drawing as few characters: kinds by name, points as steps in decimetres.
export function pack(features) {
  const kinds = [...new Set(features.map((one) => `${one.kind} ${one.shape}`))];
  return { k: kinds, f: features.map(({ kind, shape, points }) => {
    let [x, y] = [0, 0];
    return [kinds.indexOf(`${kind} ${shape}`), ...points.flatMap(([px, py]) => {
      const [dx, dy] = [Math.round(px * 10) - x, Math.round(py * 10) - y];
      x += dx; y += dy;
      return [dx, dy];
    })];
  }) };
}

export function unpack({ k, f }) {
  return f.map(([kind, ...steps]) => {
    const [name, shape] = k[kind].split(" "), points = [];
    let [x, y] = [0, 0];
    for (let i = 0; i + 1 < steps.length; i += 2) points.push([(x += steps[i]) / 10, (y += steps[i + 1]) / 10]);
    if (!["line", "area"].includes(shape) || points.length < (shape === "line" ? 2 : 3) || !points.flat().every(Number.isFinite)) {
      throw new Error("The drawing is damaged.");
    }
    return feature(name, shape, points);
  });
}

// The drawing of the last visit: what `remember` kept, or null. A browser may refuse to keep anything.
export function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    return kept && { ...kept, features: unpack(kept.drawing) };
  } catch { return null; }
}

export function remember(features, settings) {
  try { localStorage.setItem(KEY, JSON.stringify({ ...settings, drawing: pack(features) })); return true; } catch { return false; }
}
