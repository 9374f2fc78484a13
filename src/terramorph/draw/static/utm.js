// Degrees and metres of a UTM zone on WGS 84: the series of Krueger (1912) to the fourth order, under a millimetre.
const A = 6378137, F = 1 / 298.257223563, N = F / (2 - F), K0 = 0.9996;
const RADIUS = A / (1 + N) * (1 + N ** 2 / 4 + N ** 4 / 64) * K0, E = Math.sqrt(F * (2 - F));
const FORTH = [N / 2 - 2 * N ** 2 / 3 + 5 * N ** 3 / 16 + 41 * N ** 4 / 180, 13 * N ** 2 / 48 - 3 * N ** 3 / 5 + 557 * N ** 4 / 1440,
  61 * N ** 3 / 240 - 103 * N ** 4 / 140, 49561 * N ** 4 / 161280];
const BACK = [N / 2 - 2 * N ** 2 / 3 + 37 * N ** 3 / 96 - N ** 4 / 360, N ** 2 / 48 + N ** 3 / 15 - 437 * N ** 4 / 1440,
  17 * N ** 3 / 480 - 37 * N ** 4 / 840, 4397 * N ** 4 / 161280];
const RAD = Math.PI / 180;

export const zoneOf = (longitude) => Math.floor(((longitude + 180) % 360 + 360) % 360 / 6) + 1;

export const meridianOf = (zone) => 6 * zone - 183;

// [easting, northing] in metres of [longitude, latitude] in degrees.
export function toUtm([longitude, latitude], zone, south = latitude < 0) {
  const away = (longitude - meridianOf(zone)) * RAD, s = Math.sin(latitude * RAD);
  const t = Math.sinh(Math.atanh(s) - E * Math.atanh(E * s));
  const xi = Math.atan2(t, Math.cos(away)), eta = Math.atanh(Math.sin(away) / Math.hypot(1, t));
  let x = eta, y = xi;
  FORTH.forEach((factor, i) => {
    const k = 2 * (i + 1);
    x += factor * Math.cos(k * xi) * Math.sinh(k * eta);
    y += factor * Math.sin(k * xi) * Math.cosh(k * eta);
  });
  return [500000 + RADIUS * x, (south ? 1e7 : 0) + RADIUS * y];
}

// [longitude, latitude] in degrees of [easting, northing] in metres.
export function fromUtm([easting, northing], zone, south = false) {
  const xi = (northing - (south ? 1e7 : 0)) / RADIUS, eta = (easting - 500000) / RADIUS;
  let x = eta, y = xi;
  BACK.forEach((factor, i) => {
    const k = 2 * (i + 1);
    x -= factor * Math.cos(k * xi) * Math.sinh(k * eta);
    y -= factor * Math.sin(k * xi) * Math.cosh(k * eta);
  });
  const t = Math.sin(y) / Math.hypot(Math.sinh(x), Math.cos(y));  // tan of the conformal latitude
  let tan = t;
  for (let i = 0; i < 6; i++) {
    const sigma = Math.sinh(E * Math.atanh(E * tan / Math.hypot(1, tan)));
    const found = tan * Math.hypot(1, sigma) - sigma * Math.hypot(1, tan);
    tan += (t - found) / Math.hypot(1, found) * (1 + (1 - E * E) * tan * tan) / ((1 - E * E) * Math.hypot(1, tan));
  }
  return [meridianOf(zone) + Math.atan2(Math.sinh(x), Math.cos(y)) / RAD, Math.atan(tan) / RAD];
}
