// The drawing as GeoJSON, and back. `terramorph translate MODEL drawing.geojson out.tif` sees the square that the page
// shows: a feature of kind land spans it, and nothing reaches beyond. Degrees (RFC 7946) where a box of degrees is the
// square; elsewhere, where north is not quite up, metres of UTM under the member `crs`, which GDAL and QGIS read.
import { bounds, clipArea, clipLine, distance, meets, oriented } from "./geometry.js";
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

// Features of a FeatureCollection with their `kind` (or `class`), around the middle of what it covers.
// Gives {features, place, side (pixels of the square, where it says so), skipped}.
export function fromGeoJson(json, renderer) {
  const given = json?.type === "FeatureCollection" ? json.features : json?.type === "Feature" ? [json] : null;
  if (!Array.isArray(given)) throw new Error("The file is no GeoJSON FeatureCollection; give one.");
  const frame = given.find((one) => one?.properties?.role === "frame");
  const zone = /EPSG:+32([67])(\d\d)$/.exec(json.crs?.properties?.name ?? "");
  const toDegrees = zone ? (metres) => fromUtm(metres, Number(zone[2]), zone[1] === "7") : (degrees) => degrees;
  const corners = rings(frame ? [frame] : given).flat().map(toDegrees), [west, north, east, south] = bounds(corners);
  if (!Number.isFinite(west) || Math.max(Math.abs(west), Math.abs(east)) > 180 || Math.max(Math.abs(north), Math.abs(south)) > 90) {
    throw new Error("The file has no coordinates in degrees, longitude first; give GeoJSON in WGS 84.");
  }
  const place = new Place(renderer.metres, [(west + east) / 2, (north + south) / 2]), found = [];
  const side = frame ? Number(frame.properties.pixels) : 0, half = side / 2 * renderer.metres;
  let skipped = 0;
  for (const one of given) {
    const { kind = one?.properties?.class, role } = one?.properties ?? {};
    if (role === "frame" || role === EDGE) continue;
    const area = /Polygon$/.test(one?.geometry?.type ?? ""), shape = area ? "area" : "line";
    const parts = rings([one]);
    if (!parts.length || !renderer.draws(kind, shape)) { skipped++; continue; }
    for (const part of parts) {
      const points = part.map((corner) => place.toPoint(toDegrees(corner)));
      if (area) points.pop();
      if (points.length >= (area ? 3 : 2)) found.push(feature(kind, shape, half && !area ? onward(points, half) : points));
    }
  }
  return { features: found, place, side, skipped };
}

// The lines and outer rings of features, in degrees.
function rings(features) {
  return features.flatMap(({ geometry } = {}) => {
    const { type, coordinates } = geometry ?? {};
    if (type === "LineString") return [coordinates];
    if (type === "MultiLineString") return coordinates;
    if (type === "Polygon") return [coordinates[0]];
    if (type === "MultiPolygon") return coordinates.map((one) => one[0]);
    return [];
  }).filter((points) => Array.isArray(points) && points.length && points.every((p) => Array.isArray(p) && p.every(Number.isFinite)));
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
