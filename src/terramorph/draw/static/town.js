// A town by the layout rules of terramorph.town.layout: two highways, arterials, a river, a railway, parks with ponds, and
// districts between the main roads, each with a use and a street grid of its own. Metres from the north-west corner.
import { band, bounds, distance, inside, meets, smooth } from "./geometry.js";
import { feature } from "./drawing.js";

const CELL = 2, EXTENT = 1024;

// Numbers from a seed: uniform in [0, 1) (mulberry32, public domain), in a range, and normal.
export function chance(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = state + 0x6D2B79F5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
  next.between = (low, high) => low + (high - low) * next();
  next.normal = (deviation) => deviation * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return next;
}

// The seed that a name stands for (FNV-1a).
export function seedOf(name) {
  let hash = 0x811C9DC5;
  for (const byte of new TextEncoder().encode(name.trim().toLowerCase())) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

// The features of a town of a seed that lie in a square of `side` metres, around its middle.
export function makeTown(seed, rules, side) {
  const random = chance(seed), extent = Math.max(EXTENT, side), plan = layOut(extent, random, rules);
  const [x, y] = bestMiddle(plan, extent, side, random), half = side / 2 + 30;
  const box = [x - half, y - half, x + half, y + half];
  return plan.filter(({ points }) => meets(bounds(points, 20), box))
    .map(({ kind, shape, points }) => feature(kind, shape, points.map((p) => [p[0] - x, p[1] - y])));
}

// Where the square shows most of what a town has.
function bestMiddle(plan, extent, side, random) {
  let best = [extent / 2, extent / 2], most = -1;
  if (side >= extent) return best;
  for (let i = 0; i < 24; i++) {
    const middle = [0, 1].map(() => random.between(side / 2, extent - side / 2)), r = 0.36 * side;
    const box = [middle[0] - r, middle[1] - r, middle[0] + r, middle[1] + r];
    const near = plan.filter(({ points }) => points.some(([x, y]) => x > box[0] && x < box[2] && y > box[1] && y < box[3]));
    const kinds = new Set(near.map((one) => one.kind)), houses = near.filter((one) => one.kind === "building").length;
    const score = 3 * kinds.has("water") + 2 * kinds.has("park") + 2 * kinds.has("arterial") + 2 * kinds.has("highway")
      + Math.min(3, houses / 12);
    if (score > most) { most = score; best = middle; }
  }
  return best;
}

function layOut(extent, random, rules) {
  const wobble = (points, by = rules.wobble[0]) => points.map(([x, y]) => [x + random.normal(by), y + random.normal(by)]);
  const curve = (points) => smooth(points.map(([x, y]) => [x * extent, y * extent]), 10);
  const highways = rules.highways.map((points) => curve(wobble(points)));
  const arterials = [false, true].flatMap((across) => arterialsOf(extent / rules.arterials, across, random).map(curve));
  const river = curve(wobble(rules.river)), rail = curve(wobble(rules.rail, rules.wobble[1]));
  const { greens, ponds } = parks(extent, rules, random), { widths } = rules;
  const size = Math.ceil(extent / CELL);
  const mask = (paint) => painted(size, paint);
  const main = (pen, more) => {
    for (const line of highways) stroke(pen, line, widths.highway + 10 + more);
    for (const line of arterials) stroke(pen, line, widths.arterial + 6 + more);
  };
  const blocked = mask((pen) => { main(pen, 0); greens.forEach((g) => fill(pen, g)); stroke(pen, river, widths.river + 18); stroke(pen, rail, 16); });
  const closed = mask((pen) => {
    for (const line of highways) stroke(pen, line, widths.highway + 12);
    greens.forEach((g) => fill(pen, g));
    stroke(pen, river, widths.river + 12);
  });
  const roads = mask((pen) => main(pen, 4));
  const walls = mask((pen) => { for (const line of [...highways, ...arterials]) stroke(pen, line, 4); });
  const { labels, districts } = faces(walls, size, extent, random, rules);
  const at = (grid, [x, y]) => {
    const column = Math.floor(x / CELL), row = Math.floor(y / CELL);
    return column < 0 || row < 0 || column >= size || row >= size ? -1 : grid[row * size + column];
  };
  const features = [];
  const add = (kind, shape, points) => features.push({ kind, shape, points });
  greens.forEach((ring) => add("park", "area", ring));
  for (const [pond, green] of ponds) if (pond.every((p) => inside(green, p) && at(roads, p) === 0)) add("water", "area", pond);
  add("water", "area", band(river, widths.river));
  add("rail", "line", rail);
  for (const district of districts) {
    const free = (p) => at(labels, p) === district.label && at(blocked, p) === 0;
    const { lines, cells } = grid(district);
    for (const [a, b] of lines) {
      for (const run of runs(a, b, (p) => [0, district.label].includes(at(labels, p)) && at(closed, p) === 0)) add("road", "line", run);
    }
    if (district.use === "field") continue;
    const inset = widths.road / 2;
    for (const cell of cells) {
      if (random() < rules.square_parks) {
        const ring = corners(cell, district, [0, 0], district.block.map((s) => s - 2 * inset - 4));
        if (within(ring, free)) add("park", "area", ring);
      } else {
        for (const ring of buildings(cell, district, rules.lots[district.use], inset + 2.5, random)) if (within(ring, free)) add("building", "area", ring);
      }
    }
  }
  arterials.forEach((line) => add("arterial", "line", line));
  highways.forEach((line) => add("highway", "line", line));
  return features;
}

function arterialsOf(many, across, random) {
  const count = Math.max(1, Math.round(many));
  return Array.from({ length: count }, (_, i) => {
    const base = count === 1 ? (across ? 0.72 : 0.3) : (i + 0.5) / count + random.normal(0.05 / count);
    const waves = random.between(0.5, 1.1), phase = random();
    return Array.from({ length: 6 }, (_, k) => {
      const t = -0.05 + 0.22 * k, s = base + 0.16 / count * Math.sin(2 * Math.PI * (t * waves + phase));
      return across ? [s, t] : [t, s];
    });
  });
}

function parks(extent, rules, random) {
  const [most, share] = rules.park_radius, greens = [], ponds = [];
  for (const quarter of rules.parks) {
    quarter.forEach((spot, i) => {
      const [x, y] = spot.map((s) => (s + random.normal(0.012)) * extent);
      const radius = Math.min(most, share * extent) * (i ? 0.75 : 1) * random.between(0.95, 1.15);
      greens.push(blob(x, y, radius, random.between(1, 1.35), random));
      if (i === 0) ponds.push([blob(x, y, radius * 0.5, random.between(1, 1.3), random), greens.at(-1)]);
    });
  }
  return { greens, ponds };
}

// A smooth round shape.
export function blob(x, y, radius, stretch, random) {
  const waves = [2, 3, 4].map((k) => [k, random.normal(0.22 / k), random.between(0, 2 * Math.PI)]), turn = random.between(0, Math.PI);
  return Array.from({ length: 56 }, (_, i) => {
    const t = i * Math.PI / 28, r = radius * waves.reduce((all, [k, size, phase]) => all + size * Math.cos(k * t + phase), 1);
    const px = r * Math.cos(t) * stretch, py = r * Math.sin(t) / stretch;
    return [x + px * Math.cos(turn) - py * Math.sin(turn), y + px * Math.sin(turn) + py * Math.cos(turn)];
  });
}

// What is painted on a grid of cells: Uint8Array, 0 where nothing.
function painted(size, paint) {
  const pen = new OffscreenCanvas(size, size).getContext("2d", { willReadFrequently: true });
  pen.scale(1 / CELL, 1 / CELL);
  pen.lineCap = pen.lineJoin = "round";
  paint(pen);
  const { data } = pen.getImageData(0, 0, size, size);
  const cells = new Uint8Array(size * size);
  for (let i = 0; i < cells.length; i++) cells[i] = data[4 * i + 3] > 100 ? 1 : 0;
  return cells;
}

function trace(pen, points) { pen.beginPath(); points.forEach(([x, y], i) => pen[i ? "lineTo" : "moveTo"](x, y)); }

function stroke(pen, points, width) { trace(pen, points); pen.lineWidth = width; pen.stroke(); }

function fill(pen, points) { trace(pen, points); pen.fill(); }

// The faces between main roads: a label for each cell (0 on a road), and what each face is used for.
function faces(walls, size, extent, random, rules) {
  const labels = new Int32Array(size * size), districts = [];
  let label = 0;
  for (let start = 0; start < labels.length; start++) {
    if (walls[start] || labels[start]) continue;
    label++;
    const cells = [start];
    labels[start] = label;
    for (let i = 0; i < cells.length; i++) {
      const cell = cells[i], column = cell % size;
      for (const next of [column ? cell - 1 : -1, column < size - 1 ? cell + 1 : -1, cell - size, cell + size]) {
        if (next >= 0 && next < labels.length && !walls[next] && !labels[next]) { labels[next] = label; cells.push(next); }
      }
    }
    if (cells.length * CELL * CELL < 900) continue;
    const points = cells.filter((_, i) => i % 7 === 0).map((c) => [(c % size + 0.5) * CELL, (Math.floor(c / size) + 0.5) * CELL]);
    const middle = [0, 1].map((axis) => points.reduce((all, p) => all + p[axis], 0) / points.length);
    const reach = Math.hypot(middle[0] / extent - 0.5, middle[1] / extent - 0.5), draw = random();
    const use = reach < 0.2 ? "downtown" : reach > 0.45 && draw < 0.28 ? "field" : draw > 0.84 ? "industry" : "houses";
    const [along, across] = rules.blocks[use];
    const block = [along * random.between(0.9, 1.1), across * random.between(0.95, 1.08)];
    districts.push({ label, use, block, middle, points, angle: tightest(points) + random.normal(0.12) });
  }
  return { labels, districts };
}

// The angle of the smallest rectangle around points.
function tightest(points) {
  let best = 0, least = Infinity;
  for (let i = 0; i < 45; i++) {
    const angle = i * Math.PI / 90, [l, t, r, b] = bounds(points.map((p) => turned(p, -angle)));
    if ((r - l) * (b - t) < least) { least = (r - l) * (b - t); best = angle; }
  }
  return best;
}

function turned([x, y], angle) {
  const cos = Math.cos(angle), sin = Math.sin(angle);
  return [x * cos - y * sin, x * sin + y * cos];
}

// Streets and blocks of a district: a turned grid over it, not yet cut to its area.
function grid({ middle, points, angle, block }) {
  const local = points.map((p) => turned([p[0] - middle[0], p[1] - middle[1]], -angle)), [l, t, r, b] = bounds(local);
  const steps = (low, high, step) => Array.from({ length: Math.ceil((high - low) / step) + 2 }, (_, i) => low + i * step);
  const us = steps(l, r, block[0]), vs = steps(t, b, block[1]);
  const plan = (u, v) => { const [x, y] = turned([u, v], angle); return [middle[0] + x, middle[1] + y]; };
  return {
    lines: [...us.map((u) => [plan(u, vs[0]), plan(u, vs.at(-1))]), ...vs.map((v) => [plan(us[0], v), plan(us.at(-1), v)])],
    cells: us.slice(0, -1).flatMap((u) => vs.slice(0, -1).map((v) => plan(u + block[0] / 2, v + block[1] / 2))),
  };
}

function corners(cell, { angle }, [u, v], [length, depth]) {
  return [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([i, j]) => {
    const [x, y] = turned([u + i * length / 2, v + j * depth / 2], angle);
    return [cell[0] + x, cell[1] + y];
  });
}

function* buildings(cell, district, use, margin, random) {
  const [length, depth] = district.block.map((side) => side - 2 * margin);
  const columns = Math.max(1, Math.floor(length / use.frontage)), rows = district.use !== "industry" || depth > 80 ? 2 : 1;
  const lot = [length / columns, depth / rows];
  for (let i = 0; i < columns; i++) {
    for (let j = 0; j < rows; j++) {
      const size = [lot[0] * random.between(...use.length), lot[1] * random.between(...use.depth)];
      const shift = (j ? 1 : -1) * Math.max(0, (lot[1] - size[1]) / 2 - use.setback);
      if (random() > use.kept) continue;
      yield corners(cell, district, [(i + 0.5) * lot[0] - length / 2, (j + 0.5) * lot[1] - depth / 2 + shift], size);
    }
  }
}

// Whether a ring passes only where it may.
function within(ring, free) {
  return ring.every((a, i) => {
    const b = ring[(i + 1) % ring.length], steps = Math.ceil(distance(a, b) / 4);
    return Array.from({ length: steps }, (_, k) => [a[0] + (b[0] - a[0]) * k / steps, a[1] + (b[1] - a[1]) * k / steps]).every(free);
  });
}

// The pieces of a segment where it may be, of 22 m and more.
function runs(a, b, free) {
  const steps = Math.ceil(distance(a, b) / CELL), found = [];
  const on = (k) => [a[0] + (b[0] - a[0]) * k / steps, a[1] + (b[1] - a[1]) * k / steps];
  let begun = -1;
  for (let k = 0; k <= steps + 1; k++) {
    const open = k <= steps && free(on(k));
    if (open && begun < 0) begun = k;
    if (!open && begun >= 0) { if ((k - 1 - begun) * CELL >= 22) found.push([on(begun), on(k - 1)]); begun = -1; }
  }
  return found;
}
