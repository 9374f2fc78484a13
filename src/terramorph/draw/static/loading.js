// How the network comes to the page: what it costs is said before, then progress, then what went wrong, if something did.
import { $ } from "./ui.js";

const AGREED = "terramorph.loaded";

export const size = (bytes) => (bytes >= 1e6 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${Math.ceil(bytes / 1000)} kB`);

export class Loading {
  // `open(onProgress)` brings the network.
  constructor(config, model, open) {
    Object.assign(this, { config, model, open });
    $("model-line").textContent = `${model.name}: ${size(model.bytes)}, ${model.metres_per_pixel ?? 1} m a pixel. ${model.licence ?? ""}`;
  }

  // Load at once where all is on board or was loaded before; otherwise say the size, which depends on the backend, and wait.
  offer(backend) {
    this.bytes = this.model.bytes + this.config.runtime.bytes[backend];
    let agreed = false;
    try { agreed = localStorage.getItem(AGREED) === this.#key; } catch { /* then it is asked again */ }
    if (this.config.embedded || agreed) { this.#load(); return; }
    this.#say("The network comes to you", `${size(this.bytes)}, once; then this page works offline. It runs on your device, and nothing that you draw leaves it.`);
    this.#button(`Load ${size(this.bytes)}`, () => this.#load());
  }

  get #key() { return `${this.model.name} ${this.model.sha256}`; }

  async #load() {
    $("load").hidden = true;
    this.#say(this.config.embedded ? "Waking the network" : "Loading the network", this.config.embedded ? "It is on board; this takes a few seconds." : `${size(this.bytes)}, once.`);
    const bar = $("bar-loaded");
    bar.hidden = false;
    bar.removeAttribute("value");
    if (!this.config.embedded) await keepOffline(this.config.models);
    try {
      await this.open((loaded, total) => {
        bar.max = total || 1;
        bar.value = loaded;
        $("card-text").textContent = loaded < total ? `${size(loaded)} of ${size(total)}` : "Making it ready …";
      });
      try { localStorage.setItem(AGREED, this.#key); } catch { /* it will say the size again */ }
      $("card-text").textContent = "Looking at your drawing …";
    } catch (error) {
      this.failed(error.message, () => this.#load());
    } finally { bar.hidden = true; }
  }

  done() {
    $("card").hidden = true;
    $("card").classList.add("over");
  }

  // One sentence, and one thing to do. The drawing is kept.
  failed(text, again) {
    this.#say("No photograph", `${text} Your drawing is kept.`);
    $("card").dataset.bad = "yes";
    this.#button("Try again", () => { this.#say("One moment", ""); again(); });
  }

  #say(title, text) {
    delete $("card").dataset.bad;
    $("card").hidden = false;
    $("card-title").textContent = title;
    $("card-text").textContent = text;
    $("load").hidden = true;
  }

  #button(text, act) {
    Object.assign($("load"), { textContent: text, onclick: act, hidden: false });
  }
}

// Keeps the page's files, so that it opens without a network. A browser that cannot does without.
async function keepOffline(models) {
  const { serviceWorker } = navigator;
  if (!serviceWorker || !location.protocol.startsWith("http")) return;
  try {
    const controlled = new Promise((resolve) => {
      if (serviceWorker.controller) resolve();
      serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    });
    const { scope } = await serviceWorker.register("./offline.js");
    await Promise.race([controlled, new Promise((resolve) => { setTimeout(resolve, 3000); })]);
    const kept = await caches.open("terramorph-draw"), old = await kept.keys(), used = models.map(({ url }) => new URL(url, document.baseURI).href);
    await Promise.all(old.filter(({ url }) => url.startsWith(scope) && url.endsWith(".onnx.gz") && !used.includes(url)).map((one) => kept.delete(one)));
    // What came before the service worker did.
    const seen = performance.getEntriesByType("resource").map(({ name }) => name).filter((name) => name.startsWith(scope) && !name.endsWith(".onnx.gz"));
    await kept.addAll([...new Set([location.href.split("#")[0], ...seen])]);
  } catch { /* it needs the network again */ }
}
