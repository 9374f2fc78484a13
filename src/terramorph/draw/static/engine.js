// The network as the page sees it.
//
//   const engine = await openEngine(config, { onProgress(bytesLoaded, bytesTotal), direction: "map2sat" });
//   engine.describe()   {backend, threads, isolated, model, bytes, windows: [computed, all] of the last picture}
//   await engine.translate(imageData, { seed, origin: [x, y] })   ImageData of the same size
//   engine.close()
//
// A picture depends on the image, the seed and the origin (the cell of pixel (0, 0), to which noise is fixed) alone. Only
// windows whose pixels changed are computed again. The newest call wins: one that waits, or is not yet done with its last
// window, rejects with an AbortError. All other errors are an Error with one sentence for people.
import { readBytes, startWorker } from "./files.js";

// Of each backend a script and the WebAssembly that it runs; that of WebGPU has the other's backend too.
const RUNTIMES = {
  wasm: ["./vendor/onnxruntime-web/ort.wasm.bundle.min.mjs", "./vendor/onnxruntime-web/ort-wasm-simd-threaded.wasm.gz"],
  webgpu: ["./vendor/onnxruntime-web/ort.jspi.bundle.min.mjs", "./vendor/onnxruntime-web/ort-wasm-simd-threaded.jspi.wasm.gz"],
};
const MOST_THREADS = 4;
const PATIENCE = 30_000; // milliseconds

// "webgpu" where the page has it, WebAssembly can wait for it, and no processor plays the graphics card; else "wasm".
export async function backendOf({ runtime }) {
  if (!runtime.bytes.webgpu || !globalThis.WebAssembly?.Suspending) return "wasm";
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter && !adapter.info.isFallbackAdapter ? "webgpu" : "wasm";
}

export async function openEngine(config, { onProgress = () => {}, direction = "map2sat" } = {}) {
  const model = config.models.find((one) => one.direction === direction);
  if (!model) throw new Error(`This page has no model of direction ${direction}.`);
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, on which the network runs; use another one.");
  if (typeof DecompressionStream !== "function") throw new Error("This browser is too old to unpack the network; update it.");
  const backend = await backendOf(config), [runtime, binary] = RUNTIMES[backend], total = model.bytes + config.runtime.bytes[backend];
  let loaded = 0;
  const told = (more) => onProgress(Math.min(loaded += more, total), total);
  const [wasm, network] = await Promise.all([readBytes(binary, told), readBytes(model.url, told)]);
  onProgress(total, total); // the rest are scripts
  const isolated = globalThis.crossOriginIsolated === true;
  const threads = isolated && !onIos() ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  const facts = { window: model.window, halo: model.halo, overlap: model.overlap, stride: model.stride, noise_bands: model.noise_bands };
  const opening = { runtime, wasm, network, facts };
  // Where the graphics card or threads hang or are not allowed, one thread does.
  const more = (threads > 1 || backend === "webgpu") && (await opened({ ...opening, backend, threads }, PATIENCE).catch(() => null));
  const worker = more || (await opened({ ...opening, backend: "wasm", threads: 1 }));
  return new Engine(worker, { ...worker.opened, isolated, model: model.name, bytes: total, windows: [0, 0] });
}

// A worker in which the network is open, within so many milliseconds.
function opened(opening, patience = 0) {
  let worker;
  try {
    worker = startWorker("./worker.js");
  } catch {
    throw new Error("This browser runs no worker here, in which the network works; open the page in another one.");
  }
  return new Promise((resolve, reject) => {
    const failed = (text) => {
      worker.terminate();
      reject(new Error(text));
    };
    const timer = patience && setTimeout(() => failed("The network does not start here."), patience);
    worker.onmessage = ({ data }) => {
      if (data.awake) return worker.postMessage({ open: opening });
      clearTimeout(timer);
      if (!data.ready) return failed(sentence(data.failed));
      worker.opened = data.ready;
      resolve(worker);
    };
    worker.onerror = () => failed("The network's worker could not be started; load the page again.");
  });
}

class Engine {
  #worker; #about; #waiting = new Map(); #last = 0; #broken = null;

  constructor(worker, about) {
    this.#worker = worker;
    this.#about = about;
    worker.onmessage = ({ data }) => this.#answered(data);
    worker.onerror = () => this.#fail("The network's worker stopped; load the page again.");
  }

  describe() {
    return { ...this.#about };
  }

  translate(image, { seed = 0, origin = [0, 0] } = {}) {
    if (this.#broken) return Promise.reject(new Error(this.#broken));
    const { width, height } = image, id = ++this.#last;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, width, height });
      const pixels = new Uint8ClampedArray(image.data);
      this.#worker.postMessage({ id, pixels, width, height, seed, origin }, [pixels.buffer]);
      // What is neither being computed nor the newest will not be answered.
      for (const [older, one] of this.#waiting) if (older < id && older !== this.#first()) this.#drop(older, one);
    });
  }

  close() {
    this.#worker.terminate();
    this.#fail("The engine is closed.");
  }

  #first() {
    return this.#waiting.keys().next().value;
  }

  #drop(id, one) {
    this.#waiting.delete(id);
    one.reject(new DOMException("A newer drawing is being translated.", "AbortError"));
  }

  #answered({ id, pixels, error, computed, windows, backend }) {
    const one = this.#waiting.get(id);
    if (!one) return;
    if (error) {
      this.#waiting.delete(id);
      one.reject(new Error(sentence(error)));
    } else if (!pixels) this.#drop(id, one);
    else {
      this.#waiting.delete(id);
      Object.assign(this.#about, { backend, windows: [computed, windows] });
      one.resolve(new ImageData(pixels, one.width, one.height));
    }
  }

  #fail(text) {
    this.#broken = text;
    for (const one of this.#waiting.values()) one.reject(new Error(text));
    this.#waiting.clear();
  }
}

// What ONNX Runtime and browsers say, as one sentence that says what to do.
function sentence(text) {
  if (/memory|allocat|bad_alloc|RangeError/i.test(text)) return "There is not enough memory for this picture; choose a smaller one, or close other tabs.";
  if (/protobuf|parse|Load model|opset|Invalid model/i.test(text)) return "The network does not fit this page or is damaged; load the page again.";
  if (/WebAssembly|wasm|backend/i.test(text)) return "WebAssembly, on which the network runs, is switched off or not allowed here; use another browser.";
  return `The network failed (${text.split("\n")[0].slice(0, 160)}); load the page again.`;
}

// Threads hang there: github.com/microsoft/onnxruntime/issues/11679.
const onIos = () => /iP(hone|ad|od)/.test(navigator.userAgent) || (/Macintosh/.test(navigator.userAgent) && navigator.maxTouchPoints > 1);
