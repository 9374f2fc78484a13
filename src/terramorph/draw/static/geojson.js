// The drawing as GeoJSON, and back. `terramorph translate MODEL drawing.geojson out.tif` sees the square that the page
// shows: a feature of kind land spans it, and nothing reaches beyond. Degrees (RFC 7946) where a box of degrees is the
// square; elsewhere, where north is not quite up, metres of UTM under the member `crs`, which GDAL and QGIS read.
import { bounds, clipArea, clipLine, distance, meets, oriented, signedArea } from "./geometry.js";
import { feature } from "./drawing.js";
import { Place } from "./place.js";
import { fromUtm } from "./utm.js";

const EDGE = "edge";  // a piece of a line's width at the border, whose middle line lies outside

// A FeatureCollection of what lies in the square of `side` pixels.
export function toGeoJson(features, renderer, place, side, about = {}) {
  const half = side / 2 * renderer.metres;
  // The box of degrees around what is written must not reach over the next pixel, and meridians converge.
  const inset = place.upright ? 0.02 * renderer.metres + 2.4 * half * half * Math.tan(Math.abs(place.degrees[1]) * Math.PI / 180) / 6.37e6 : 0;
  const box = [inset - half, inset - half, half - inset, half - inset];
  const [l, t, r, b] = box;
  const found = [area([[l, t], [r, t], [r, b], [l, b]], { kind: "land", role: "frame", pixels: side })];
  for (const one of features) {
    const margin = renderer.margin(one);
    if (!meets(bounds(one.points, margin), box)) continue;
    if (one.shape === "area") {
      const ring = clipArea(one.points, box);
      if (ring.length > 2) found.push(area(ring, { kind: one.kind }));
      continue;
    }
    const parts = clipLine(one.points, box);
    for (const part of parts) {
      found.push({ type: "Feature", properties: { kind: one.kind }, geometry: { type: "LineString", coordinates: coordinates(part) } });
    }
    for (const ring of edges(one.points, renderer.width(one.kind) / 2, box)) found.push(area(ring, { kind: one.kind, role: EDGE }));
  }
  const crs = place.upright ? {} : { crs: { type: "name", properties: { name: `urn:ogc:def:crs:EPSG::${place.epsg}` } } };
  return { type: "FeatureCollection", ...crs, terramorph: { metres_per_pixel: renderer.metres, pixels: side, ...about }, features: found };

  function coordinates(points) {
    return points.map((point) => (place.upright ? place.toDegrees(point).map((value) => Math.round(value * 1e9) / 1e9) : place.toMetres(point)));
  }

  function area(ring, properties) {
    const outer = coordinates(oriented(ring).slice().reverse());
    return { type: "Feature", properties, geometry: { type: "Polygon", coordinates: [[...outer, outer[0]]] } };
  }
}

// What of the width of a line lies in a box, though its middle does not.
function edges(points, half, box) {
  const found = [], [left, top, right, bottom] = box;
  const out = ([x, y]) => x < left || x > right || y < top || y > bottom;
  const keep = (ring) => { const kept = clipArea(ring, box); if (kept.length > 2) found.push(kept); };
  points.forEach((a, i) => {
    if (out(a)) keep(Array.from({ length: 48 }, (_, k) => [a[0] + half * Math.cos(k * Math.PI / 24), a[1] + half * Math.sin(k * Math.PI / 24)]));
    const b = points[i + 1];
    if (!b || !(out(a) || out(b))) return;
    const length = distance(a, b) || 1, x = (b[1] - a[1]) / length * half, y = (a[0] - b[0]) / length * half;
    keep([[a[0] + x, a[1] + y], [b[0] + x, b[1] + y], [b[0] - x, b[1] - y], [a[0] - x, a[1] - y]]);
  });
  return found;
}

const LARGEST = 1024;  // pixels of a side

// Features of a FeatureCollection: those with a `kind` (or `class`) that is drawn, and
// those whose OpenStreetMap tags the table gives one. Gives {features, place, side (pixels of the square, where it says
// so), skipped (without a kind), far (outside of the largest square)}.
export function fromGeoJson(json, renderer, table) {
  const given = json?.type === "FeatureCollection" ? json.features : json?.type === "Feature" ? [json] : null;
  if (!Array.isArray(given)) throw new Error("The file is no GeoJSON FeatureCollection; give one.");
  const frame = given.find((one) => one?.properties?.role === "frame");
  const zone = /EPSG:+32([67])(\d\d)$/.exec(json.crs?.properties?.name ?? "");
  const toDegrees = zone ? (metres) => fromUtm(metres, Number(zone[2]), zone[1] === "7") : (degrees) => degrees;
  const corners = (frame ? [frame] : given).flatMap(rings).flat().map(toDegrees), [west, north, east, south] = bounds(corners);
  if (!corners.length || Math.max(Math.abs(west), Math.abs(east)) > 180 || Math.max(Math.abs(north), Math.abs(south)) > 90) {
    throw new Error("The file has no lines or areas in degrees, longitude first; give GeoJSON in WGS 84.");
  }
  // Long roads lead far out of an export of a town: its middle is where most of its corners are.
  const median = (axis) => corners.map((one) => one[axis]).sort((a, b) => a - b)[corners.length >> 1];
  const place = new Place(renderer.metres, frame ? [(west + east) / 2, (north + south) / 2] : [median(0), median(1)]), found = [];
  const side = frame ? Number(frame.properties.pixels) : 0, half = side / 2 * renderer.metres, most = LARGEST / 2 * renderer.metres;
  let skipped = 0, far = 0;
  for (const one of given) {
    const properties = one?.properties ?? {}, parts = rings(one), shape = /Polygon$/.test(one?.geometry?.type ?? "") ? "area" : "line";
    if (properties.role === "frame" || properties.role === EDGE) continue;
    const kind = properties.kind ?? properties.class ?? kindOf(properties, shape, table);
    if (!parts.length || !renderer.draws(kind, shape)) { skipped++; continue; }
    for (const part of parts) {
      const points = part.map((corner) => place.toPoint(toDegrees(corner)));
      if (shape === "area" && distance(points[0], points.at(-1)) < 1e-6) points.pop();
      if (points.length < (shape === "area" ? 3 : 2)) continue;
      const drawn = feature(kind, shape, half && shape === "line" ? onward(points, half) : points);
      if (meets(renderer.reach(drawn), [-most, -most, most, most])) found.push(drawn); else far++;
    }
  }
  return { features: found, place, side, skipped, far };
}

// The kind that a table gives to OpenStreetMap tags, as terramorph.cartography.table does; null where it has none.
function kindOf(tags, shape, table) {
  for (const { geometry, keys, kinds, without } of table) {
    if (geometry !== "any" && geometry !== shape) continue;
    const key = keys.find((name) => tags[name] && (kinds[tags[name]] ?? kinds["*"]));
    if (!key) continue;
    return Object.entries(without).some(([name, values]) => values.includes(tags[name])) ? null : kinds[tags[key]] ?? kinds["*"];
  }
  return null;
}

// The lines and rings of a feature; a ring with holes is cut open to them.
function rings(one) {
  const { type, coordinates } = one?.geometry ?? {};
  const valid = (points) => Array.isArray(points) && points.length > 0 && points.every((p) => Array.isArray(p) && p.length > 1 && p.every(Number.isFinite));
  const all = (list) => (Array.isArray(list) && list.length && list.every(valid) ? list : []);
  if (type === "LineString") return all([coordinates]);
  if (type === "MultiLineString") return all(coordinates);
  const areas = type === "Polygon" ? [coordinates] : type === "MultiPolygon" && Array.isArray(coordinates) ? coordinates : [];
  return areas.map(all).filter((list) => list.length).map(whole);
}

// One ring of an outer ring and its holes, joined where they are nearest; holes run the other way round.
function whole([outer, ...holes]) {
  let ring = outer;
  for (const given of holes) {
    const hole = (signedArea(given) > 0) === (signedArea(outer) > 0) ? given.slice().reverse() : given;
    let best = [0, 0], least = Infinity;
    ring.forEach((a, i) => hole.forEach((b, j) => { if (distance(a, b) < least) { least = distance(a, b); best = [i, j]; } }));
    const [i, j] = best;
    ring = [...ring.slice(0, i + 1), ...hole.slice(j), ...hole.slice(1, j + 1), ...ring.slice(i)];
  }
  return ring;
}

// A line that was cut at the border of its square runs on beyond it.
function onward(points, half) {
  const at = (p) => Math.max(Math.abs(p[0]), Math.abs(p[1])) > half - 0.6, all = points.slice();
  const on = (end, before) => {
    const length = distance(end, before) || 1;
    return [end[0] + (end[0] - before[0]) / length * 30, end[1] + (end[1] - before[1]) / length * 30];
  };
  if (at(all[0])) all.unshift(on(all[0], all[1]));
  if (at(all.at(-1))) all.push(on(all.at(-1), all.at(-2)));
  return all;
}
