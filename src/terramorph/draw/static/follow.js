// The photograph follows the drawing: when the network is asked, and what comes of its answers.
const REST = 150, QUICK = 300;  // ms: after the pen stops; an answer that is quick enough to draw by

export class Follower {
  // `wanted()` gives {features, side, seed, origin}. `shown(image, ms, features)` takes a picture and what it is
  // of, `state(name, text)` is told "working", "done" or "failed".
  constructor(renderer, { wanted, shown, state }) {
    Object.assign(this, { renderer, wanted, shown, state, engine: null, ms: Infinity, timer: 0, turn: 0, seen: 0, going: false, again: false, answered: false });
  }

  // Something changed; `resting` where the pen has been lifted.
  nudge(resting = true) {
    if (!this.engine) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), REST);
    if (resting || this.ms >= QUICK) return;
    if (this.going) this.again = true; else this.#ask();
  }

  start(engine) { this.engine = engine; this.#ask(); }

  async #ask() {
    const { engine } = this;
    if (!engine) return;
    const wanted = this.wanted(), picture = this.renderer.picture(wanted.features, wanted.side), key = `${wanted.seed} ${wanted.origin}`;
    if (this.answered && this.asked?.key === key && same(this.asked.picture, picture)) return;
    const turn = ++this.turn, begun = performance.now();
    this.asked = { key, picture };
    this.going = true;
    this.answered = false;
    this.state("working", "");
    try {
      const image = await engine.translate(picture, { seed: wanted.seed, origin: wanted.origin });
      if (this.engine !== engine || turn < this.seen) return;
      this.seen = turn;
      this.ms = performance.now() - begun;
      this.shown(image, this.ms, wanted.features);
      if (turn === this.turn) { this.answered = true; this.state("done", ""); }
    } catch (error) {
      if (error.name !== "AbortError" && this.engine === engine) this.state("failed", error.message);
    } finally {
      if (turn === this.turn) {
        this.going = false;
        if (this.again) { this.again = false; this.#ask(); }
      }
    }
  }
}

// Whether two pictures are of the same pixels.
function same(a, b) {
  if (a.width !== b.width) return false;
  const [one, other] = [a, b].map(({ data }) => new Uint32Array(data.buffer));
  return one.every((value, i) => value === other[i]);
}
