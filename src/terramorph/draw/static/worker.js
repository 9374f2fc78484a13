// Runs the network beside the page: ONNX Runtime on WebGPU or WebAssembly.
import { addressOf } from "./files.js";
import { groundNoise } from "./noise.js";
import { blended, cropped, windowsOf } from "./windows.js";

const TRUSTED = 0.02; // of WebGPU, whose sums run in another order: mean difference to WebAssembly, of a range from -1 to 1

let ort = null, model = null, session = null, backend = null, reopen = null;
let kept = new Map(); // what windows were made of and what became of them, so that only what changed is computed again
let wanted = 0; // number of the newest request

async function open({ backend: wanted, runtime, wasm, network, threads, facts }) {
  ort = await import(addressOf(runtime));
  ort.env.logLevel = "error";
  Object.assign(ort.env.wasm, { wasmBinary: wasm, numThreads: threads, proxy: false });
  model = facts;
  const create = (name) => ort.InferenceSession.create(network, { executionProviders: [name], graphOptimizationLevel: "all", logSeverityLevel: 3 });
  [session, backend] = [await create("wasm"), "wasm"];
  if (wanted === "webgpu") await tryGpu(create);
  return { backend, threads: ort.env.wasm.numThreads };
}

// WebGPU takes over if it makes a small picture as WebAssembly does; the first that it fails at is the last it is given.
async function tryGpu(create) {
  const side = Math.max(64, model.stride), column = { start: 0, stop: side }, place = { x: 0, y: 0, seed: 0 };
  const bytes = Uint8Array.from({ length: 3 * side * side }, (_, at) => (at * 7919) % 256), plain = session;
  try {
    const expected = await predicted(bytes, { row: column, column }, place);
    session = await create("webgpu");
    const found = await predicted(bytes, { row: column, column }, place);
    const apart = found.reduce((sum, value, at) => sum + Math.abs(value - expected[at]), 0) / found.length;
    if (!(apart < TRUSTED)) throw new Error(`WebGPU is ${apart} off.`);
    backend = "webgpu";
    await plain.release();
    reopen = async () => { [session, backend, reopen] = [await create("wasm"), "wasm", null]; };
  } catch (error) {
    console.info(`WebGPU is not used: ${error?.message ?? error}`);
    session = plain;
  }
}

async function translate(job) {
  const { pixels, width, height, seed, origin } = job, windows = windowsOf(width, height, model);
  const outputs = [], fresh = new Map();
  let computed = 0;
  for (const window of windows) {
    // Let a newer request be heard between two windows.
    if (windows.length > 1) await new Promise((go) => setTimeout(go));
    if (job.id < wanted) return null;
    const bytes = cropped(pixels, width, window);
    const x = origin[0] + window.column.start, y = origin[1] + window.row.start;
    const name = `${seed} ${x} ${y} ${window.column.stop - window.column.start} ${window.row.stop - window.row.start}`;
    const before = kept.get(name);
    const same = before !== undefined && equal(before.bytes, bytes);
    const output = same ? before.output : await predicted(bytes, window, { x, y, seed });
    computed += !same;
    fresh.set(name, { bytes, output });
    outputs.push(output);
  }
  kept = fresh;
  return { pixels: blended(width, height, windows, outputs), computed, windows: windows.length, backend };
}

async function predicted(bytes, { row, column }, place) {
  const width = column.stop - column.start, height = row.stop - row.start, values = new Float32Array(bytes.length);
  for (let at = 0; at < bytes.length; at++) values[at] = bytes[at] / 127.5 - 1;
  const inputs = { source: new ort.Tensor("float32", values, [1, 3, height, width]) };
  if (model.noise_bands) {
    const noise = groundNoise(width, height, model.noise_bands, place);
    inputs.noise = new ort.Tensor("float32", noise, [1, model.noise_bands, height, width]);
  }
  let made;
  try {
    made = await session.run(inputs);
  } catch (error) {
    if (!reopen) throw error;
    await reopen(); // the graphics card is gone or full
    made = await session.run(inputs);
  }
  const { target } = made, output = target.data.slice();
  target.dispose();
  return output;
}

function equal(a, b) {
  if (a.length !== b.length) return false;
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false;
  return true;
}

// One job after the other; of those that wait only the newest is done.
let working = null, next = null;
async function work() {
  while (next) {
    working = next;
    next = null;
    try {
      const made = await translate(working);
      postMessage({ id: working.id, ...made }, made ? [made.pixels.buffer] : []);
    } catch (error) {
      postMessage({ id: working.id, error: String(error?.message ?? error) });
    }
  }
  working = null;
}

addEventListener("message", async ({ data }) => {
  if (data.open) {
    try {
      postMessage({ ready: await open(data.open) });
    } catch (error) {
      postMessage({ failed: String(error?.message ?? error) });
    }
    return;
  }
  wanted = data.id;
  next = data;
  if (!working) work();
});
postMessage({ awake: true });
