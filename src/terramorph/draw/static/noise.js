// The noise image of a generator as terramorph.translate.noise makes it: a function of ground cell, band and seed.
// Hash: pcg4d (Jarzynski & Olano 2020, "Hash Functions for GPU Rendering", JCGT 9(3)), made normal by Box & Muller (1958).
const WORDS = new Uint32Array(4);
const TURN = Math.fround(2 * Math.PI);

function pcg4d(x, y, z, w) {
  const v = WORDS;
  v[0] = Math.imul(x, 1664525) + 1013904223;
  v[1] = Math.imul(y, 1664525) + 1013904223;
  v[2] = Math.imul(z, 1664525) + 1013904223;
  v[3] = Math.imul(w, 1664525) + 1013904223;
  stir(v);
  for (let n = 0; n < 4; n++) v[n] ^= v[n] >>> 16;
  stir(v);
}

function stir(v) {
  v[0] += Math.imul(v[1], v[3]);
  v[1] += Math.imul(v[2], v[0]);
  v[2] += Math.imul(v[0], v[1]);
  v[3] += Math.imul(v[1], v[2]);
}

const uniform = (word) => ((word >>> 9) + 0.5) * 2 ** -23;

// Normal noise, Float32Array (bands, height, width): mean 0, standard deviation 1.
// x, y: the cell of pixel (0, 0), whole numbers. seed: a whole number from 0 to 2 ** 53, of which the low 32 bits count.
export function groundNoise(width, height, bands, { x = 0, y = 0, seed = 0 } = {}) {
  const plane = width * height, made = new Float32Array(Math.ceil(bands / 4) * 4 * plane);
  for (let first = 0; first < bands; first += 4) {
    for (let row = 0, at = first * plane; row < height; row++) {
      for (let column = 0; column < width; column++, at++) {
        pcg4d(x + column, y + row, first / 4, seed);
        for (let pair = 0; pair < 4; pair += 2) {
          const radius = Math.sqrt(-2 * Math.log(uniform(WORDS[pair])));
          const angle = Math.fround(TURN * uniform(WORDS[pair + 1]));
          made[at + pair * plane] = radius * Math.cos(angle);
          made[at + (pair + 1) * plane] = radius * Math.sin(angle);
        }
      }
    }
  }
  return made.subarray(0, bands * plane);
}
