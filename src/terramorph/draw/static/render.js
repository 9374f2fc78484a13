// Draws features with the style table of the training maps: the same order, widths, casings and colours as
// terramorph.cartography.render.
import { bounds, meets, oriented } from "./geometry.js";

const CLASSES = ["land", "building", "road", "highway", "arterial", "park", "water"];

// A renderer of a style at a ground resolution in metres a pixel.
export class Renderer {
  constructor(style, metres) {
    this.style = style;
    this.metres = metres;
    this.rules = new Map();
    this.boxes = new WeakMap();
    for (const rule of style.rules) {
      for (const shape of ["line", "area"]) {
        if (rule.geometry !== "any" && rule.geometry !== shape) continue;
        const key = `${rule.kind} ${shape}`;
        this.rules.set(key, [...(this.rules.get(key) ?? []), rule]);
      }
    }
  }

  colour(kind) { return this.style.rules.find((rule) => rule.kind === kind)?.fill ?? this.style.background; }

  draws(kind, shape) { return this.rules.has(`${kind} ${shape}`); }

  // Width in metres of a line of a kind.
  width(kind) {
    const widths = (this.rules.get(`${kind} line`) ?? []).map((rule) => this.#pixels(rule) * this.metres);
    return Math.max(0, ...widths);
  }

  // How far a feature reaches beyond its points, in metres.
  margin({ kind, shape }) {
    const rules = this.rules.get(`${kind} ${shape}`) ?? [];
    return Math.max(0, ...rules.map((rule) => ((shape === "line" ? this.#pixels(rule) / 2 : 0) + this.#casing(rule)) * this.metres));
  }

  // Metres [left, top, right, bottom] that a feature covers.
  reach(feature) {
    if (!this.boxes.has(feature)) this.boxes.set(feature, bounds(feature.points, this.margin(feature)));
    return this.boxes.get(feature);
  }

  // Features on a canvas. `view` is {left, top, scale}: metres of the canvas's corner, and its pixels a metre.
  draw(pen, features, { left, top, scale }, width, height, ground = true) {
    const size = scale * this.metres, edge = 2 * this.metres;
    const seen = [left - edge, top - edge, left + width / scale + edge, top + height / scale + edge];
    if (ground) {
      pen.fillStyle = this.style.background;
      pen.fillRect(0, 0, width, height);
    }
    pen.lineCap = pen.lineJoin = "round";
    const sorted = new Map();
    for (const feature of features) {
      if (!meets(this.reach(feature), seen)) continue;
      for (const rule of this.rules.get(`${feature.kind} ${feature.shape}`) ?? []) {
        const found = sorted.get(rule) ?? { line: [], area: [] };
        found[feature.shape].push(feature);
        sorted.set(rule, found);
      }
    }
    for (const rule of this.style.rules) {
      const found = sorted.get(rule);
      if (!found) continue;
      const paths = { line: new Path2D(), area: new Path2D() };
      for (const { shape, points } of [...found.area, ...found.line]) {
        const path = paths[shape], ring = shape === "area" ? oriented(points) : points;
        ring.forEach(([x, y], i) => path[i ? "lineTo" : "moveTo"](Math.fround((x - left) * scale), Math.fround((y - top) * scale)));
        if (shape === "area") path.closePath();
      }
      const line = this.#pixels(rule) * size, casing = this.#casing(rule) * size;
      if (rule.casing && casing > 0) {
        pen.strokeStyle = rule.casing;
        if (found.area.length) { pen.lineWidth = 2 * casing; pen.stroke(paths.area); }
        if (found.line.length) { pen.lineWidth = line + 2 * casing; pen.stroke(paths.line); }
      }
      pen.fillStyle = pen.strokeStyle = rule.fill;
      if (found.area.length) pen.fill(paths.area);
      if (found.line.length && line > 0) { pen.lineWidth = line; pen.stroke(paths.line); }
    }
  }

  // The square of `side` pixels around the middle, as the network sees it: ImageData.
  picture(features, side) {
    if (this.canvas?.width !== side) {
      this.canvas = new OffscreenCanvas(side, side);
      this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    }
    const half = side / 2 * this.metres;
    this.draw(this.pen, features, { left: -half, top: -half, scale: 1 / this.metres }, side, side);
    return this.pen.getImageData(0, 0, side, side);
  }

  // Share of each class of the pixels of a picture of features, 0 to 1, by name. Smooth edges between two classes have
  // the colours of a third, so only those count that are drawn.
  shares({ data }, features) {
    const drawn = new Set(["land", ...features.map((one) => one.kind)]);
    const colours = CLASSES.filter((name) => drawn.has(name))
      .map((name) => [name, [1, 3, 5].map((at) => parseInt(this.colour(name).slice(at, at + 2), 16))]);
    const known = new Map(), counts = new Map(colours.map(([name]) => [name, 0]));
    for (let i = 0; i < data.length; i += 4) {
      const key = data[i] << 16 | data[i + 1] << 8 | data[i + 2];
      if (!known.has(key)) {
        const away = ([, rgb]) => rgb.reduce((all, value, c) => all + (value - data[i + c]) ** 2, 0);
        known.set(key, colours.reduce((best, one) => (away(one) < away(best) ? one : best))[0]);
      }
      counts.set(known.get(key), counts.get(known.get(key)) + 4 / data.length);
    }
    return Object.fromEntries(counts);
  }

  #pixels(rule) {
    if (!rule.width_px?.length) return Math.max(rule.width_m / this.metres, rule.min_width_px);
    const zoom = Math.log2(156543.03392804097 / this.metres), stops = rule.width_px;
    const after = stops.findIndex(([stop]) => stop >= zoom);
    let width = stops.at(after < 0 ? -1 : after)[1];
    if (after > 0) {
      const [a, from] = stops[after - 1], [b, to] = stops[after];
      width = from + (to - from) * (zoom - a) / (b - a);
    }
    return Math.max(width, rule.min_width_px);
  }

  #casing(rule) { return rule.casing ? Math.max(rule.casing_m / this.metres, rule.min_casing_px) : 0; }
}
