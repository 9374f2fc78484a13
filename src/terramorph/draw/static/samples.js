// Drawings to begin with. Each is a function of the side of the square in metres: places scale, widths and houses do not.
import { distance, inside, nearestOnLine, rectangle, smooth } from "./geometry.js";
import { feature } from "./drawing.js";
import { blob, chance } from "./town.js";

const line = (kind, points, side) => feature(kind, "line", points.length > 2 ? smooth(scaled(points, side), 8) : scaled(points, side));
const area = (kind, points, side) => feature(kind, "area", smooth(scaled(points, side), 8, true));
const scaled = (points, side) => points.map(([x, y]) => [x * side, y * side]);

// Houses on both sides of the roads, where there is room: off roads, water and parks.
function houses(features, side, seed, { every = 24, away = 18 } = {}) {
  const random = chance(seed), widths = { road: 9, arterial: 18, highway: 30 }, found = [];
  const roads = features.filter((one) => one.kind in widths), areas = features.filter((one) => one.shape === "area");
  const rivers = features.filter((one) => one.kind === "water" && one.shape === "line");
  const clear = (p, reach) => roads.every((one) => nearestOnLine(one.points, p).away > widths[one.kind] / 2 + reach)
    && rivers.every((one) => nearestOnLine(one.points, p).away > 14 + reach)
    && areas.every((one) => !inside(one.points, p) && nearestOnLine([...one.points, one.points[0]], p).away > reach - 4)
    && found.every((ring) => distance(centre(ring), p) > reach + 12) && Math.max(Math.abs(p[0]), Math.abs(p[1])) < side / 2 + 6;
  for (const { kind, points } of roads.filter((one) => one.kind !== "highway")) {
    let since = every / 2;
    for (let i = 1; i < points.length; i++) {
      const [a, b] = [points[i - 1], points[i]], length = distance(a, b), angle = Math.atan2(b[1] - a[1], b[0] - a[0]);
      for (let t = every - since; t < length; t += every) {
        for (const hand of [-1, 1]) {
          const long = random.between(13, 18), deep = random.between(10, 14), off = widths[kind] / 2 + away - 5 + random.between(-1, 1);
          const p = [a[0] + Math.cos(angle) * t - hand * Math.sin(angle) * off, a[1] + Math.sin(angle) * t + hand * Math.cos(angle) * off];
          if (random() < 0.93 && clear(p, 8)) found.push(block(p, long, deep, angle));
        }
      }
      since = (since + length) % every;
    }
  }
  return found.map((ring) => feature("building", "area", ring));
}

const centre = (ring) => [(ring[0][0] + ring[2][0]) / 2, (ring[0][1] + ring[2][1]) / 2];

function block([x, y], long, deep, angle) {
  const [c, s] = [Math.cos(angle), Math.sin(angle)], [u, v] = [long / 2, deep / 2];
  return rectangle([x - u * c + v * s, y - u * s - v * c], [x + u * c - v * s, y + u * s + v * c], angle);
}

export const SAMPLES = {
  Crossroads(s) {
    const drawn = [
      area("park", [[0.16, 0.13], [0.33, 0.1], [0.4, 0.22], [0.3, 0.36], [0.15, 0.32]], s),
      feature("water", "area", blob(0.27 * s, 0.22 * s, 0.055 * s, 1.2, chance(4))),
      line("arterial", [[-0.6, 0.1], [-0.2, 0.04], [0.1, -0.06], [0.6, -0.1]], s),
      line("highway", [[-0.28, -0.6], [-0.18, -0.2], [0.0, 0.15], [0.06, 0.6]], s),
      line("road", [[-0.6, -0.24], [-0.2, -0.31], [0.2, -0.36], [0.6, -0.38]], s),
      line("road", [[0.2, -0.08], [0.16, -0.36], [0.14, -0.6]], s), line("road", [[0.38, -0.09], [0.36, -0.37]], s),
      line("road", [[-0.38, 0.07], [-0.42, -0.26]], s), line("road", [[-0.38, 0.07], [-0.34, 0.34], [-0.3, 0.6]], s),
      line("road", [[-0.35, 0.3], [0.03, 0.26]], s), line("road", [[0.05, 0.42], [0.3, 0.43], [0.6, 0.4]], s),
    ];
    return [...drawn, ...houses(drawn, s, 11)];
  },
  Harbour(s) {
    const shore = [[-0.7, 0.2], [-0.36, 0.12], [-0.2, 0.17], [-0.17, 0.33], [-0.02, 0.36], [0.02, 0.16], [0.2, 0.1], [0.42, 0.2], [0.7, 0.14], [0.7, 0.8], [-0.7, 0.8]];
    const drawn = [
      feature("water", "area", smooth(scaled(shore, s), 8, true)),
      area("park", [[-0.45, -0.4], [-0.3, -0.44], [-0.22, -0.33], [-0.32, -0.22], [-0.46, -0.26]], s),
      line("arterial", [[-0.6, -0.12], [-0.2, -0.07], [0.1, -0.1], [0.6, -0.02]], s),
      line("road", [[-0.6, 0.07], [-0.34, 0.04], [-0.1, 0.1], [-0.08, 0.24]], s), line("road", [[0.1, -0.1], [0.1, 0.05], [0.34, 0.08], [0.6, 0.06]], s),
      line("road", [[-0.12, -0.08], [-0.1, 0.09]], s), line("road", [[-0.12, -0.08], [-0.1, -0.6]], s),
      line("road", [[0.14, -0.1], [0.18, -0.6]], s), line("road", [[-0.11, -0.34], [0.16, -0.32], [0.6, -0.3]], s), line("road", [[0.4, -0.05], [0.42, -0.31]], s),
    ];
    return [...drawn, ...houses(drawn, s, 5)];
  },
  Island(s) {
    const coast = blob(0, 0, 0.37 * s, 1.15, chance(21)), hole = [...coast, coast[0]].reverse(), r = 0.9 * s;
    const ring = [[-r, 0], [-r, -r], [r, -r], [r, r], [-r, r], [-r, 0]];
    const near = hole.reduce((best, p, i) => (p[0] < hole[best][0] ? i : best), 0);
    const turned = [...hole.slice(near), ...hole.slice(1, near + 1)];
    const drawn = [
      feature("water", "area", [...ring, ...turned]),
      feature("park", "area", blob(0.13 * s, -0.1 * s, 0.11 * s, 1.2, chance(8))),
      feature("water", "area", blob(0.14 * s, -0.1 * s, 0.045 * s, 1.2, chance(3))),
      line("road", [[-0.24, 0.02], [-0.12, -0.14], [0.0, -0.2]], s), line("road", [[-0.24, 0.02], [-0.08, 0.08], [0.12, 0.06], [0.28, 0.0]], s),
      line("road", [[-0.08, 0.08], [-0.04, 0.2], [0.1, 0.22], [0.16, 0.06]], s), line("road", [[-0.1, -0.13], [-0.07, 0.08]], s),
    ];
    return [...drawn, ...houses(drawn, s, 6)];
  },
};
