// Windows over an image too large for one pass, and how their outputs become one image: terramorph.geo.Cover.

// The windows along one axis: {start, stop} of what the network sees, {first, last} of what its output is used for, and
// weights, Float32Array (stop - start), its share in each output pixel.
// how: {window, halo, overlap, stride}; halo null: neighbours are blended over half of the overlap.
export function spansOf(length, { window, halo, overlap, stride }) {
  const side = Math.ceil(Math.max(window, 4 * (halo ?? 0)) / stride) * stride;
  if (length <= side) return [{ start: 0, stop: length, first: 0, last: length, weights: new Float32Array(length).fill(1) }];
  const step = Math.floor((side - (halo === null ? overlap : 2 * halo)) / stride) * stride;
  if (step < stride) throw new Error(`Windows of ${side} px leave no room for what they share; the page's model is described wrongly.`);
  const last = Math.ceil((length - side) / stride) * stride, starts = [];
  for (let start = 0; start < last + step; start += step) starts.push(start);
  const stops = starts.map((start) => Math.min(start + side, length));
  const middles = starts.slice(1).map((start, n) => Math.floor((start + stops[n]) / 2));
  const half = halo === null ? Math.floor(Math.floor(overlap / 2) / 2) : 0, total = new Float32Array(length);
  const spans = starts.map((start, n) => {
    const first = n ? middles[n - 1] - half : 0, end = n < middles.length ? middles[n] + half : length;
    const weights = new Float32Array(stops[n] - start);
    for (let at = first; at < end; at++) {
      let share = 1;
      if (half && first > 0 && at < first + 2 * half) share *= (at - first + 0.5) / (2 * half);
      if (half && end < length && at >= end - 2 * half) share *= (end - at - 0.5) / (2 * half);
      weights[at - start] = share;
      total[at] += share;
    }
    return { start, stop: stops[n], first, last: end, weights };
  });
  for (const { start, weights } of spans) for (let at = 0; at < weights.length; at++) weights[at] /= total[start + at];
  return spans;
}

// Every window of an image, row by row: {row, column}, the spans it is made of.
export function windowsOf(width, height, how) {
  const columns = spansOf(width, how);
  return spansOf(height, how).flatMap((row) => columns.map((column) => ({ row, column })));
}

// One image, RGBA bytes, of windows and their outputs, Float32Array (3, h, w) in [-1, 1] of what each window saw.
export function blended(width, height, windows, outputs) {
  const sums = new Float32Array(3 * width * height), plane = width * height;
  windows.forEach(({ row, column }, number) => {
    const output = outputs[number], wide = column.stop - column.start, size = wide * (row.stop - row.start);
    for (let y = row.first; y < row.last; y++) {
      const share = row.weights[y - row.start];
      for (let x = column.first; x < column.last; x++) {
        const weight = share * column.weights[x - column.start];
        const from = (y - row.start) * wide + x - column.start, to = y * width + x;
        for (let band = 0; band < 3; band++) {
          const value = Math.max(-1, Math.min(1, output[band * size + from]));
          sums[band * plane + to] += weight * value * 127.5;
        }
      }
    }
  });
  const pixels = new Uint8ClampedArray(4 * plane); // it rounds halves to even, as numpy does
  for (let at = 0; at < plane; at++) {
    for (let band = 0; band < 3; band++) pixels[4 * at + band] = sums[band * plane + at] + 127.5;
    pixels[4 * at + 3] = 255;
  }
  return pixels;
}

// The red, green and blue bytes of a window.
export function cropped(pixels, width, { row, column }) {
  const wide = column.stop - column.start, made = new Uint8Array(3 * wide * (row.stop - row.start)), size = made.length / 3;
  for (let y = row.start, to = 0; y < row.stop; y++) {
    for (let x = column.start, from = 4 * (y * width + x); x < column.stop; x++, to++, from += 4) {
      made[to] = pixels[from];
      made[size + to] = pixels[from + 1];
      made[2 * size + to] = pixels[from + 2];
    }
  }
  return made;
}
