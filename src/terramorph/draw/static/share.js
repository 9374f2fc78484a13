// Taking a drawing along: pictures, files and links.
import { pack, unpack } from "./drawing.js";

const LONGEST = 30000;  // characters of a link that browsers and messengers pass on

// A file for people to keep.
export function save(content, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ImageData as a PNG with texts: {keyword: text}, in letters of Latin-1.
export async function png(image, texts = {}) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  const plain = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer()), head = 8 + 25;  // signature, IHDR
  return new Blob([plain.subarray(0, head), ...Object.entries(texts).map(textChunk), plain.subarray(head)], { type: "image/png" });
}

function textChunk([keyword, text]) {
  const body = Uint8Array.from(`tEXt${keyword}\0${text}`, (letter) => letter.charCodeAt(0)), chunk = new Uint8Array(body.length + 8);
  const view = new DataView(chunk.buffer);
  let sum = -1;
  for (const byte of body) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 && 0xedb88320);
  }
  view.setUint32(0, body.length - 4);
  chunk.set(body, 4);
  view.setUint32(4 + body.length, ~sum);
  return chunk;
}

// Where the pixels of a square lie, as GDAL says it; terramorph reads it from the texts of a PNG.
export function placeTexts(place, side) {
  const [east, north] = place.middle, { metres } = place, half = side / 2 * metres;
  return { SRS: `EPSG:${place.epsg}`, GeoTransform: [east - half, metres, 0, north + half, 0, -metres].join(", ") };
}

// Drawing and photograph side by side, with a line that says what it is.
export async function sideBySide(map, photo, line) {
  const times = Math.max(1, Math.round(768 / map.width)), size = map.width * times, gap = 12, foot = 44;
  const canvas = new OffscreenCanvas(2 * size + 3 * gap, size + gap + foot), pen = canvas.getContext("2d");
  pen.fillStyle = "#fbfaf7";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  const images = await Promise.all([map, photo].map((one) => createImageBitmap(one)));
  images.forEach((image, i) => pen.drawImage(image, gap + i * (size + gap), gap, size, size));
  pen.fillStyle = "#59646c";
  pen.font = `${size > 700 ? 19 : 13}px system-ui, sans-serif`;
  pen.fillText(line, gap, size + gap + 29, canvas.width - 2 * gap);
  return canvas.convertToBlob();
}

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

// A link to this page that holds the drawing: {features, ...settings} as fragment, compressed.
export async function toLink(features, settings, renderer) {
  const half = settings.px / 2 * renderer.metres + 40;
  const seen = features.filter((one) => { const [l, t, r, b] = renderer.reach(one); return l < half && r > -half && t < half && b > -half; });
  const text = JSON.stringify({ ...settings, drawing: pack(seen) });
  const bytes = await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(text));
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  const code = btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  if (code.length > LONGEST) throw new Error("The drawing is too large for a link; save it as GeoJSON.");
  return `${location.href.split("#")[0]}#d=${code}`;
}

// What a link holds; null for a page without one.
export async function fromLink(hash) {
  const code = new URLSearchParams(hash.replace(/^#/, "")).get("d");
  if (!code) return null;
  try {
    const bytes = Uint8Array.from(atob(code.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const kept = JSON.parse(new TextDecoder().decode(await through(new DecompressionStream("deflate-raw"), bytes)));
    return { ...kept, features: unpack(kept.drawing) };
  } catch { throw new Error("The link is damaged: its drawing cannot be read. Ask for it again, or begin with a sample."); }
}

// A GeoTIFF of a picture in its place: one strip, not compressed, UTM on WGS 84, with a description in ASCII.
export function geoTiff(image, place, description) {
  const { width, height, data } = image, rows = width * height, head = 8 + 2 + 12 * 14 + 4, { metres } = place;
  const note = `${description}\0`, keys = [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, place.epsg];
  const tie = [0, 0, 0, place.middle[0] - width / 2 * metres, place.middle[1] + height / 2 * metres, 0], scale = [metres, metres, 0];
  const at = { bits: head, scale: head + 8, tie: head + 8 + 24, keys: head + 8 + 72, note: head + 8 + 72 + 32 };
  const begin = at.note + note.length + note.length % 2, bytes = new Uint8Array(begin + 3 * rows), view = new DataView(bytes.buffer);
  bytes.set([0x49, 0x49, 42, 0, 8, 0, 0, 0]);
  let entry = 10;
  const tag = (code, type, count, value) => {
    view.setUint16(entry, code, true); view.setUint16(entry + 2, type, true); view.setUint32(entry + 4, count, true);
    if (type === 3 && count === 1) view.setUint16(entry + 8, value, true); else view.setUint32(entry + 8, value, true);
    entry += 12;
  };
  view.setUint16(8, 14, true);
  tag(256, 4, 1, width); tag(257, 4, 1, height); tag(258, 3, 3, at.bits); tag(259, 3, 1, 1); tag(262, 3, 1, 2);
  tag(270, 2, note.length, at.note); tag(273, 4, 1, begin); tag(277, 3, 1, 3); tag(278, 4, 1, height); tag(279, 4, 1, 3 * rows);
  tag(284, 3, 1, 1); tag(33550, 12, 3, at.scale); tag(33922, 12, 6, at.tie); tag(34735, 3, 16, at.keys);
  [8, 8, 8].forEach((value, i) => view.setUint16(at.bits + 2 * i, value, true));
  scale.forEach((value, i) => view.setFloat64(at.scale + 8 * i, value, true));
  tie.forEach((value, i) => view.setFloat64(at.tie + 8 * i, value, true));
  keys.forEach((value, i) => view.setUint16(at.keys + 2 * i, value, true));
  bytes.set(new TextEncoder().encode(note), at.note);
  for (let i = 0, to = begin; i < data.length; i += 4) { bytes[to++] = data[i]; bytes[to++] = data[i + 1]; bytes[to++] = data[i + 2]; }
  return new Blob([bytes], { type: "image/tiff" });
}
