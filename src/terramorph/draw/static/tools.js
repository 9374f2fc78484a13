// The pen: pointers, touch and keys on a canvas become features of the drawing.
import { bounds, distance, fair, loops, nearestOn, rectangle } from "./geometry.js";
import { feature } from "./drawing.js";
import { blob, chance } from "./town.js";

export const TOOLS = [
  { id: "road", key: "r", title: "Road", kind: "road", shape: "line" },
  { id: "arterial", key: "a", title: "Arterial", kind: "arterial", shape: "line" },
  { id: "highway", key: "h", title: "Highway", kind: "highway", shape: "line" },
  { id: "river", key: "v", title: "River", kind: "water", shape: "line" },
  { id: "water", key: "w", title: "Water", kind: "water", shape: "area" },
  { id: "park", key: "p", title: "Park", kind: "park", shape: "area" },
  { id: "building", key: "b", title: "Building", kind: "building", shape: "area", straight: true },
  { id: "eraser", key: "e", title: "Eraser" },
  { id: "pan", key: "m", title: "Move" },
];

const SNAP = 9;  // CSS pixels

export class Pen {
  // `told(text)` speaks to people; `changed()` is called when what the pen is about to add changes.
  constructor(drawing, panes, { told, changed }) {
    Object.assign(this, { drawing, panes, told, changed, straight: new Map() });
    this.pointers = new Map();
    this.stroke = null;
    this.hover = null;
    this.cross = null;
    this.choose("road");
    for (const canvas of [panes.map, panes.photo]) this.#listen(canvas);
  }

  choose(id) {
    this.cancel();
    this.tool = TOOLS.find((one) => one.id === id);
    this.changed();
  }

  // Whether lines are straight and areas rectangles.
  get isStraight() { return this.straight.get(this.tool.id) ?? Boolean(this.tool.straight); }

  set isStraight(value) { this.straight.set(this.tool.id, value); this.changed(); }

  get busy() { return Boolean(this.stroke); }

  cancel() {
    if (this.stroke?.erased) this.stroke.erased.clear();
    this.stroke = null;
    this.changed();
  }

  // {features, marks}: the drawing with what is about to be added, and marks over it.
  get ink() {
    const { stroke, tool } = this, marks = [], width = tool.shape === "line" ? this.drawing.renderer.width(tool.kind) : 0;
    if (stroke?.erased) {
      for (const one of stroke.erased) marks.push(this.#doomed(one));
    } else if (stroke && tool.kind) {
      const next = this.#feature(stroke.points, true);
      if (stroke.keys) marks.push({ points: stroke.points.concat([this.cross]) });
      if (next) return { features: [...this.drawing.features, next], marks: this.cross ? [...marks, { cross: this.cross }] : marks };
    }
    if (this.cross) marks.push({ cross: this.cross });
    else if (this.hover && tool.kind) marks.push({ at: this.hover, width });
    else if (this.hover && tool.id === "eraser") {
      marks.push({ at: this.hover, width: 14 / this.panes.scale() });
      const [one] = this.#under(this.hover);
      if (one && !stroke) marks.unshift(this.#doomed(one));
    }
    return { marks };
  }

  #doomed({ points, shape, kind }) {
    return { points, closed: shape === "area", doomed: true, width: shape === "line" ? this.drawing.renderer.width(kind) : 0 };
  }

  #under(place) { return this.drawing.at(place, 5 / this.panes.scale()).slice(-1); }

  #listen(canvas) {
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => { this.hover = null; this.changed(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.panes.zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), this.panes.place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { if (this.cross) { this.cross = null; this.cancel(); } });
  }

  #down(event) {
    event.currentTarget.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.cross = null;
    if (this.pointers.size > 1 || this.tool.id === "pan" || event.button > 0) { this.stroke = null; this.changed(); return; }
    const place = this.panes.place(event);
    this.stroke = this.tool.id === "eraser" ? { erased: new Set(this.#under(place)) } : { points: [this.#snapped(place)] };
    this.hover = place;
    this.changed();
  }

  #move(event) {
    const place = this.panes.place(event), before = this.pointers.get(event.pointerId);
    this.hover = event.pointerType === "touch" && !before ? null : place;
    if (!before) { this.changed(); return; }
    if (this.pointers.size > 1) this.#pinch(event);
    else if (!this.stroke) this.#pan([event.clientX - before[0], event.clientY - before[1]]);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (!this.stroke) return;
    if (this.stroke.erased) for (const one of this.#under(place)) this.stroke.erased.add(one);
    else {
      this.stroke.turned = event.shiftKey;
      const { currentTarget } = event, fine = event.getCoalescedEvents?.() ?? [];
      for (const { clientX, clientY } of fine.length ? fine : [event]) this.stroke.points.push(this.panes.place({ currentTarget, clientX, clientY }));
    }
    this.changed();
  }

  #up(event) {
    const held = this.pointers.delete(event.pointerId), { stroke } = this;
    if (event.pointerType === "touch") this.hover = null;
    if (!held || !stroke) return;
    this.stroke = null;
    if (event.type === "pointercancel") { this.changed(); return; }
    if (stroke.erased) this.#erase(stroke.erased);
    else this.#finish(stroke.points);
    this.changed();
  }

  #pan([x, y]) {
    const scale = this.panes.scale(), { middle, zoom } = this.panes;
    this.panes.look(zoom, [middle[0] - x / scale, middle[1] - y / scale]);
  }

  #pinch(event) {
    const [a, b] = [...this.pointers.entries()].slice(0, 2), moved = [event.clientX, event.clientY];
    const other = a[0] === event.pointerId ? b[1] : a[1], old = this.pointers.get(event.pointerId);
    const { currentTarget } = event, between = (p) => ({ currentTarget, clientX: (p[0] + other[0]) / 2, clientY: (p[1] + other[1]) / 2 });
    const place = this.panes.place(between(old)), factor = distance(moved, other) / Math.max(1, distance(old, other));
    this.panes.zoomAt(factor, place);
    const now = this.panes.place(between(moved));
    this.panes.look(this.panes.zoom, this.panes.middle.map((value, i) => value + place[i] - now[i]));
  }

  #erase(doomed) {
    if (!doomed.size) return;
    const words = doomed.size === 1 ? "1 thing erased." : `${doomed.size} things erased.`;
    this.drawing.change(this.drawing.features.filter((one) => !doomed.has(one)), words);
  }

  // Roads begin and end on roads that are near.
  #snapped(place) {
    if (this.tool.shape !== "line" || this.tool.kind === "water") return place;
    return this.drawing.road(place, SNAP / this.panes.scale())?.point ?? place;
  }

  // The feature that points make; null where they make none yet.
  #feature(points, unfinished = false) {
    const { tool, panes } = this, { metres } = this.drawing.renderer, ends = [points[0], points.at(-1)];
    const [left, top, right, bottom] = bounds(points), large = Math.max(right - left, bottom - top);
    if (large < 4 * metres) return null;
    if (tool.shape === "line") {
      ends[1] = unfinished ? ends[1] : this.#snapped(ends[1]);
      if (this.stroke?.keys || this.keyed) return feature(tool.kind, "line", this.#over(points));
      const long = distance(...ends);
      const straight = this.isStraight !== Boolean(this.stroke?.turned) || points.every((p) => nearestOn(...ends, p).away < 0.02 * long);
      const drawn = straight ? ends : fair([...points.slice(0, -1), ends[1]], Math.max(metres, 0.006 * large));
      return feature(tool.kind, "line", unfinished ? drawn : this.#over(drawn));
    }
    if (this.isStraight !== Boolean(this.stroke?.turned)) {
      const ring = rectangle(...ends, tool.kind === "building" ? this.drawing.road(ends[0], 60)?.angle ?? 0 : 0);
      return Math.min(distance(ring[0], ring[1]), distance(ring[1], ring[2])) < 3 * metres ? null : feature(tool.kind, "area", ring);
    }
    const ring = this.stroke?.keys || this.keyed ? points : fair(points, Math.max(metres, 0.004 * large), true);
    return ring.length < 3 ? null : feature(tool.kind, "area", ring);
  }

  // A line that ends near the border of the square runs on beyond it, as roads do.
  #over(points) {
    const edge = this.panes.ground / 2, near = edge - SNAP / this.panes.scale(), all = points.slice();
    const beyond = (end, before) => {
      const out = Math.max(Math.abs(end[0]), Math.abs(end[1]));
      if (out < near || out > edge + 20) return null;
      const length = distance(end, before) || 1, width = this.drawing.renderer.width(this.tool.kind) + 12;
      return [end[0] + (end[0] - before[0]) / length * width, end[1] + (end[1] - before[1]) / length * width];
    };
    const back = (list) => list.find((p) => distance(p, list[0]) > 5) ?? list.at(-1);
    const first = beyond(all[0], back(all)), last = beyond(all.at(-1), back(all.slice().reverse()));
    if (first) all.unshift(first);
    if (last) all.push(last);
    return all;
  }

  #finish(points) {
    const { tool } = this, one = this.#feature(points);
    if (one) {
      // An area that crosses itself would have holes where it meets another.
      const whole = one.shape === "line" ? [one] : loops(one.points, 20 * this.drawing.renderer.metres ** 2).map((ring) => feature(one.kind, "area", ring));
      if (whole.length) this.drawing.add(...whole);
      return;
    }
    const place = points[0], { metres } = this.drawing.renderer;
    if (tool.kind === "building") {
      const angle = this.drawing.road(place, 60)?.angle ?? 0, [u, v] = [8 * Math.max(1, metres / 1.5), 6 * Math.max(1, metres / 1.5)];
      const turn = (x, y) => [place[0] + x * Math.cos(angle) - y * Math.sin(angle), place[1] + x * Math.sin(angle) + y * Math.cos(angle)];
      this.drawing.add(feature("building", "area", [turn(-u, -v), turn(u, -v), turn(u, v), turn(-u, v)]));
    } else if (tool.shape === "area") {
      const seed = Math.round(1000 * (place[0] + 7 * place[1]));
      this.drawing.add(feature(tool.kind, "area", blob(...place, 0.07 * this.panes.ground, 1.15, chance(seed))));
    } else this.told(`Drag to draw a ${tool.title.toLowerCase()}.`);
  }

  #key(event) {
    const step = this.panes.ground / this.panes.zoom / (event.shiftKey ? 8 : 64), { tool } = this;
    const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (by) {
      const edge = this.panes.ground / 2, at = this.cross ?? this.panes.middle;
      this.cross = at.map((value, i) => Math.min(edge, Math.max(-edge, value + by[i])));
      if (tool.id === "pan") this.panes.look(this.panes.zoom, this.cross);
      this.told(`Crosshair ${Math.round(Math.abs(this.cross[0]))} m ${this.cross[0] < 0 ? "west" : "east"} and ` +
        `${Math.round(Math.abs(this.cross[1]))} m ${this.cross[1] < 0 ? "north" : "south"} of the middle.`);
    } else if (event.key === " ") {
      this.cross ??= [...this.panes.middle];
      if (tool.id === "eraser") this.#erase(new Set(this.#under(this.cross)));
      else if (tool.kind) {
        this.stroke ??= { points: [], keys: true };
        this.stroke.points.push(this.#snapped(this.cross));
        this.told(`Point ${this.stroke.points.length}. Enter finishes, Backspace takes it back, Escape cancels.`);
        if (tool.shape === "area" && this.isStraight && this.stroke.points.length === 2) this.#end();
      }
    } else if (event.key === "Enter" && this.stroke) this.#end();
    else if (event.key === "Backspace" && this.stroke) { this.stroke.points.pop(); if (!this.stroke.points.length) this.stroke = null; }
    else if (event.key === "Escape" && this.stroke) { this.cancel(); this.told("Cancelled."); }
    else if (event.key === "Escape") this.cross = null;
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.changed();
  }

  #end() {
    const { points } = this.stroke;
    this.stroke = null;
    this.keyed = true;
    try { this.#finish(points); } finally { this.keyed = false; }
  }
}
