// The network, off the main thread. For now it answers with the drawing itself: the worker follows.

export async function openEngine(config, { onProgress = () => {}, direction = "map2sat" } = {}) {
  const model = config.models.find((one) => one.direction === direction);
  if (!model) throw new Error(`This page has no model of direction ${direction}.`);
  onProgress(model.bytes, model.bytes);
  let waiting = null;
  return {
    describe: () => ({ backend: "wasm", threads: 1, isolated: globalThis.crossOriginIsolated === true, model: model.name, bytes: model.bytes }),
    translate(image) {
      waiting?.reject(new DOMException("A newer drawing is being translated.", "AbortError"));
      return new Promise((resolve, reject) => {
        const mine = { reject };
        waiting = mine;
        setTimeout(() => {
          if (waiting !== mine) return;
          waiting = null;
          resolve(new ImageData(new Uint8ClampedArray(image.data), image.width, image.height));
        }, 200);
      });
    },
    close() {
      waiting?.reject(new Error("The engine is closed."));
    },
  };
}
