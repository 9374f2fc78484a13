// The two squares: the map that is drawn, in vectors, and the photograph. Both show the same part of the ground.
const FINEST = 12, FADE = 200;  // times; ms in which a photograph takes another's place
const FEW = 12;  // features that are shown on the photograph until it is theirs

export class Panes {
  // `map` and `photo` are canvases. `scene()` gives {features, ink, photo, before, since, answered, read}: `ink` is what the
  // pen is about to add, `before` the photograph before this one, shown `since`, `answered` the features of this one, and
  // `read` a map that was read from a picture.
  constructor(map, photo, renderer, scene) {
    Object.assign(this, { map, photo, renderer, scene, zoom: 1, middle: [0, 0], side: 256 });
    this.asked = 0;
    const watch = new ResizeObserver(() => this.#fit());
    watch.observe(map);
    watch.observe(photo);
    this.#fit();
  }

  // Metres of the whole square's side.
  get ground() { return this.side * this.renderer.metres; }

  // CSS pixels a metre on a canvas.
  scale(canvas = this.map) { return canvas.clientWidth * this.zoom / this.ground; }

  // Where on the ground a pointer is.
  place(event) {
    const box = event.currentTarget.getBoundingClientRect(), scale = box.width * this.zoom / this.ground;
    return [this.middle[0] + (event.clientX - box.left - box.width / 2) / scale,
      this.middle[1] + (event.clientY - box.top - box.height / 2) / scale];
  }

  show(side) { this.side = side; this.look(1, [0, 0]); }

  // Zoom, and what is in the middle; the square always fills the canvas.
  look(zoom, middle) {
    this.zoom = Math.min(FINEST, Math.max(1, zoom));
    const most = this.ground / 2 * (1 - 1 / this.zoom);
    this.middle = middle.map((value) => Math.min(most, Math.max(-most, value)));
    this.paint();
  }

  // Zoom by a factor, where `place` stays where it is.
  zoomAt(factor, place) {
    const zoom = Math.min(FINEST, Math.max(1, this.zoom * factor)), rest = this.zoom / zoom;
    this.look(zoom, [0, 1].map((i) => place[i] + (this.middle[i] - place[i]) * rest));
  }

  paint() { this.asked ||= requestAnimationFrame(() => { this.asked = 0; this.#paint(); }); }

  #fit() {
    for (const canvas of [this.map, this.photo]) {
      const size = Math.round(canvas.clientWidth * devicePixelRatio);
      if (size && canvas.width !== size) canvas.width = canvas.height = size;
    }
    this.#paint();
  }

  #paint() {
    const { features, ink, photo, before, since, answered, read } = this.scene(), marks = ink.marks ?? [], drawn = ink.features ?? features;
    if (this.map.clientWidth) {
      const view = this.#view(this.map), pen = this.map.getContext("2d");
      if (read) this.#image(this.map, read, view); else this.renderer.draw(pen, drawn, view, this.map.width, this.map.height);
      this.#marks(pen, marks, view, "#1d2327");
    }
    if (!this.photo.clientWidth || !photo) return;
    const view = this.#view(this.photo), pen = this.photo.getContext("2d"), done = before ? (performance.now() - since) / FADE : 1;
    pen.clearRect(0, 0, this.photo.width, this.photo.height);
    this.#image(this.photo, photo, view);
    if (done < 1) {
      pen.globalAlpha = 1 - done;
      this.#image(this.photo, before, view);
      this.paint();
    }
    const has = new Set(answered), ahead = read ? [] : drawn.filter((one) => !has.has(one));
    pen.globalAlpha = 0.5;
    if (ahead.length <= FEW) this.renderer.draw(pen, ahead, view, this.photo.width, this.photo.height, false);
    pen.globalAlpha = 1;
    this.#marks(pen, marks, view, "#fff");
  }

  #view(canvas) {
    const scale = canvas.width * this.zoom / this.ground, half = canvas.width / scale / 2;
    return { left: this.middle[0] - half, top: this.middle[1] - half, scale };
  }

  #image(canvas, image, { left, top, scale }) {
    const pen = canvas.getContext("2d"), half = image.width * this.renderer.metres / 2;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, (-half - left) * scale, (-half - top) * scale, 2 * half * scale, 2 * half * scale);
  }

  // What is no part of the drawing: rings {at, width}, lines {points, width}, rings of features to be erased {ring}.
  #marks(pen, marks, { left, top, scale }, colour) {
    const on = ([x, y]) => [(x - left) * scale, (y - top) * scale];
    pen.save();
    pen.lineCap = pen.lineJoin = "round";
    for (const { at, width = 0, points, closed, cross, doomed } of marks) {
      const path = new Path2D();
      if (points) points.forEach((p, i) => path[i ? "lineTo" : "moveTo"](...on(p)));
      if (closed) path.closePath();
      if (at) path.arc(...on(at), Math.max(3 * devicePixelRatio, width / 2 * scale), 0, 7);
      if (cross) {
        const [x, y] = on(cross), r = 12 * devicePixelRatio;
        path.moveTo(x - r, y); path.lineTo(x + r, y); path.moveTo(x, y - r); path.lineTo(x, y + r);
      }
      const thin = devicePixelRatio;
      if (doomed) { pen.strokeStyle = "#c0392bb0"; pen.lineWidth = Math.max(4 * thin, width * scale); pen.stroke(path); continue; }
      pen.strokeStyle = colour === "#fff" ? "#0009" : "#fffc"; pen.lineWidth = 3.5 * thin; pen.stroke(path);
      pen.strokeStyle = colour; pen.lineWidth = 1.5 * thin; pen.stroke(path);
    }
    pen.restore();
  }
}
