// Points are [x, y] in metres from the middle of the drawing, x to the east, y to the south.

export const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

// [left, top, right, bottom] around points, grown by a margin.
export function bounds(points, margin = 0) {
  let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
  for (const [x, y] of points) {
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < top) top = y;
    if (y > bottom) bottom = y;
  }
  return [left - margin, top - margin, right + margin, bottom + margin];
}

export const meets = (a, b) => a[0] <= b[2] && a[2] >= b[0] && a[1] <= b[3] && a[3] >= b[1];

// The point of a segment that is nearest to a place, and how far away it is.
export function nearestOn(a, b, place) {
  const dx = b[0] - a[0], dy = b[1] - a[1], length = dx * dx + dy * dy;
  const t = length ? Math.min(1, Math.max(0, ((place[0] - a[0]) * dx + (place[1] - a[1]) * dy) / length)) : 0;
  const point = [a[0] + t * dx, a[1] + t * dy];
  return { point, away: distance(point, place) };
}

// The point of a line that is nearest to a place, how far away it is, and the direction of the line there in radians.
export function nearestOnLine(points, place) {
  let best = { point: points[0], away: distance(points[0], place), angle: 0 };
  for (let i = 1; i < points.length; i++) {
    const found = nearestOn(points[i - 1], points[i], place);
    if (i === 1 || found.away < best.away) {
      best = { ...found, angle: Math.atan2(points[i][1] - points[i - 1][1], points[i][0] - points[i - 1][0]) };
    }
  }
  return best;
}

export function inside(ring, [x, y]) {
  let odd = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [ax, ay] = ring[i], [bx, by] = ring[j];
    if ((ay > y) !== (by > y) && x < (bx - ax) * (y - ay) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}

// Twice the area of a ring, positive where it runs clockwise on the screen (y to the south).
export function signedArea(ring) {
  let sum = 0;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) sum += ring[j][0] * ring[i][1] - ring[i][0] * ring[j][1];
  return sum;
}

export const oriented = (ring) => (signedArea(ring) < 0 ? ring.slice().reverse() : ring);

// A ring that crosses itself as rings that do not, without those smaller than `least` square metres.
export function loops(ring, least) {
  const found = [], ahead = [ring];
  while (ahead.length) {
    const one = ahead.pop(), cut = crossing(one);
    if (cut) ahead.push([cut.at, ...one.slice(cut.i + 1, cut.j + 1)], [...one.slice(0, cut.i + 1), cut.at, ...one.slice(cut.j + 1)]);
    else if (one.length > 2 && Math.abs(signedArea(one)) / 2 >= least) found.push(one);
  }
  return found;
}

function crossing(ring) {
  const n = ring.length;
  for (let i = 0; i < n; i++) {
    for (let j = i + 2; j < n - (i === 0 ? 1 : 0); j++) {
      const [a, b, c, d] = [ring[i], ring[i + 1], ring[j], ring[(j + 1) % n]];
      const [ux, uy, vx, vy] = [b[0] - a[0], b[1] - a[1], d[0] - c[0], d[1] - c[1]], cross = ux * vy - uy * vx;
      const t = ((c[0] - a[0]) * vy - (c[1] - a[1]) * vx) / cross, s = ((c[0] - a[0]) * uy - (c[1] - a[1]) * ux) / cross;
      if (t > 1e-9 && t < 1 - 1e-9 && s > 1e-9 && s < 1 - 1e-9) return { i, j, at: [a[0] + t * ux, a[1] + t * uy] };
    }
  }
  return null;
}

// Fewer points that stay within a tolerance (Ramer 1972; Douglas and Peucker 1973).
export function simplify(points, tolerance) {
  if (points.length < 3) return points.slice();
  const keep = new Uint8Array(points.length), ahead = [[0, points.length - 1]];
  keep[0] = keep[points.length - 1] = 1;
  while (ahead.length) {
    const [first, last] = ahead.pop();
    let most = tolerance, at = -1;
    for (let i = first + 1; i < last; i++) {
      const { away } = nearestOn(points[first], points[last], points[i]);
      if (away > most) { most = away; at = i; }
    }
    if (at > 0) { keep[at] = 1; ahead.push([first, at], [at, last]); }
  }
  return points.filter((_, i) => keep[i]);
}

// A smooth curve (Catmull and Rom 1974) through points; the ends stay, a closed one has none.
export function smooth(points, step, closed = false) {
  const n = points.length;
  if (n < 3) return points.slice();
  const at = (i) => (closed ? points[(i + n) % n] : points[Math.min(n - 1, Math.max(0, i))]);
  const curve = [];
  for (let i = 0; i < (closed ? n : n - 1); i++) {
    const [p, a, b, q] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
    const count = Math.max(1, Math.min(24, Math.round(distance(a, b) / step)));
    for (let k = 0; k < count; k++) {
      const t = k / count, t2 = t * t, t3 = t2 * t;
      curve.push([0, 1].map((c) => 0.5 * (2 * a[c] + (b[c] - p[c]) * t + (2 * p[c] - 5 * a[c] + 4 * b[c] - q[c]) * t2
        + (3 * a[c] - p[c] - 3 * b[c] + q[c]) * t3)));
    }
  }
  if (!closed) curve.push(points[n - 1]);
  return curve;
}

// What the pen drew, without its tremble.
export function fair(points, metres, closed = false) {
  const rough = simplify(points, 1.2 * metres);
  if (!closed && rough.length === 2) return rough;
  return simplify(smooth(rough, 4 * metres, closed), 0.25 * metres);
}

// A rectangle with two opposite corners, turned by an angle.
export function rectangle(a, b, angle = 0) {
  const cos = Math.cos(angle), sin = Math.sin(angle), dx = b[0] - a[0], dy = b[1] - a[1];
  const along = dx * cos + dy * sin, across = -dx * sin + dy * cos;
  return [a, [a[0] + along * cos, a[1] + along * sin], b, [a[0] - across * sin, a[1] + across * cos]];
}

// The parts of a line that lie in a box (Liang and Barsky 1984).
export function clipLine(points, [left, top, right, bottom]) {
  const parts = [];
  let part = [];
  for (let i = 1; i < points.length; i++) {
    const [ax, ay] = points[i - 1], [bx, by] = points[i], dx = bx - ax, dy = by - ay;
    let from = 0, to = 1, out = false;
    for (const [p, q] of [[-dx, ax - left], [dx, right - ax], [-dy, ay - top], [dy, bottom - ay]]) {
      if (p === 0) { if (q < 0) out = true; } else if (p < 0) from = Math.max(from, q / p); else to = Math.min(to, q / p);
    }
    if (out || from >= to) { if (part.length > 1) parts.push(part); part = []; continue; }
    if (!part.length || from > 0) { if (part.length > 1) parts.push(part); part = [[ax + from * dx, ay + from * dy]]; }
    part.push(to < 1 ? [ax + to * dx, ay + to * dy] : [bx, by]);
    if (to < 1) { parts.push(part); part = []; }
  }
  if (part.length > 1) parts.push(part);
  return parts;
}

// The part of an area that lies in a box (Sutherland and Hodgman 1974).
export function clipArea(ring, [left, top, right, bottom]) {
  let points = ring;
  for (const [axis, limit, sign] of [[0, left, 1], [0, right, -1], [1, top, 1], [1, bottom, -1]]) {
    const within = (p) => sign * (p[axis] - limit) >= 0, kept = [];
    for (let i = 0; i < points.length; i++) {
      const a = points[(i + points.length - 1) % points.length], b = points[i];
      if (within(a) !== within(b)) {
        const t = (limit - a[axis]) / (b[axis] - a[axis]), cut = [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])];
        cut[axis] = limit;
        kept.push(cut);
      }
      if (within(b)) kept.push(b);
    }
    points = kept;
  }
  return points;
}

// The band of a width along a line.
export function band(points, width) {
  const half = width / 2, left = [], right = [];
  for (let i = 0; i < points.length; i++) {
    const a = points[Math.max(0, i - 1)], b = points[Math.min(points.length - 1, i + 1)], length = distance(a, b) || 1;
    const nx = -(b[1] - a[1]) / length * half, ny = (b[0] - a[0]) / length * half;
    left.push([points[i][0] + nx, points[i][1] + ny]);
    right.push([points[i][0] - nx, points[i][1] - ny]);
  }
  return [...left, ...right.reverse()];
}
