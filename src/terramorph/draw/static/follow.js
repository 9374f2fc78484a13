// The photograph follows the drawing: when the network is asked, for what part, and what comes of its answers.
const REST = 150, QUICK = 300;  // ms: after the pen stops; an answer that is quick enough to draw by

export class Follower {
  // `wanted()` gives {features, ink, side, seed, origin}. `shown(image, ms)` takes a picture, `state(name, text)` is told
  // "working", "done" or "failed".
  constructor(drawing, renderer, { wanted, shown, state }) {
    Object.assign(this, { drawing, renderer, wanted, shown, state, engine: null, last: null, ms: Infinity });
    this.timer = 0;
    this.going = 0;
    this.again = false;
  }

  // Something changed; `resting` where the pen has been lifted.
  nudge(resting = true) {
    if (!this.engine) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), REST);
    if (resting || this.ms >= QUICK) return;
    if (this.going) this.again = true; else this.#ask();
  }

  start(engine) { this.engine = engine; this.last = null; this.#ask(); }

  stop() { clearTimeout(this.timer); this.engine?.close(); this.engine = null; }

  async #ask() {
    const { engine } = this;
    if (!engine) return;
    const { features, side, seed, origin } = this.wanted(), last = this.last;
    const like = last && last.side === side && last.seed === seed && String(last.origin) === String(origin);
    let dirty = null;
    if (like) {
      const box = changed(features, last.features, this.renderer);
      if (!box) { this.state("done", ""); return; }
      const to = (value) => value / this.renderer.metres + side / 2;
      dirty = [Math.floor(to(box[0]) - 2), Math.floor(to(box[1]) - 2), Math.ceil(to(box[2]) + 2), Math.ceil(to(box[3]) + 2)]
        .map((value) => Math.min(side, Math.max(0, value)));
      if (dirty[0] >= dirty[2] || dirty[1] >= dirty[3]) { last.features = features; this.state("done", ""); return; }
    }
    const turn = ++this.going, begun = performance.now();
    this.newest = turn;
    this.state("working", "");
    try {
      const previous = like ? last.image : null;
      const image = await engine.translate(this.renderer.picture(features, side), { seed, origin, dirty, previous });
      if (this.engine !== engine) return;
      if (turn === this.newest) {
        this.ms = performance.now() - begun;
        this.last = { image, features, side, seed, origin };
        this.shown(image, this.ms);
        this.state("done", "");
      }
    } catch (error) {
      if (error.name !== "AbortError" && this.engine === engine) this.state("failed", error.message);
    } finally {
      if (turn === this.newest) {
        this.going = 0;
        if (this.again) { this.again = false; this.#ask(); }
      }
    }
  }
}

// Metres [left, top, right, bottom] around what differs between two lists of features; null where nothing does.
function changed(now, before, renderer) {
  const had = new Set(before), has = new Set(now);
  const boxes = [...now.filter((one) => !had.has(one)), ...before.filter((one) => !has.has(one))].map((one) => renderer.reach(one));
  if (!boxes.length) return null;
  return boxes.reduce((all, box) => [Math.min(all[0], box[0]), Math.min(all[1], box[1]), Math.max(all[2], box[2]), Math.max(all[3], box[3])]);
}
