// Where a drawing lies on Earth: the middle of its square, in metres of a UTM zone, on the lattice of the model's pixels.
import { fromUtm, meridianOf, toUtm, zoneOf } from "./utm.js";

const HOME = [15, 52.52];  // degrees; where nobody has said a place. On a meridian of UTM, so that north is up

export class Place {
  // `degrees` is [longitude, latitude] of the middle; null for a place that stands for none.
  constructor(metres, degrees = null) {
    const [longitude, latitude] = degrees ?? HOME;
    if (!(Math.abs(longitude) <= 180 && latitude >= -80 && latitude <= 84)) {
      throw new Error("A place must lie between 180 degrees west and east, and 80 south and 84 north.");
    }
    this.metres = metres;
    this.chosen = Boolean(degrees);
    this.zone = zoneOf(longitude);
    this.south = latitude < 0;
    this.cell = toUtm([longitude, latitude], this.zone, this.south).map((value) => Math.round(value / metres));
  }

  get epsg() { return (this.south ? 32700 : 32600) + this.zone; }

  get middle() { return this.cell.map((value) => value * this.metres); }

  get degrees() { return fromUtm(this.middle, this.zone, this.south); }

  // Whether a box of degrees is the square itself, north being up.
  get upright() { return Math.abs(this.degrees[0] - meridianOf(this.zone)) < 1e-3; }

  // The cell of the lattice that the first pixel of a square of `side` pixels is, as terramorph numbers them for its
  // noise: columns to the east, rows to the south.
  origin(side) { return [this.cell[0] - side / 2, -this.cell[1] - side / 2]; }

  // [easting, northing] of a point of the drawing.
  toMetres([x, y]) { return [this.middle[0] + x, this.middle[1] - y]; }

  // [longitude, latitude] of a point of the drawing, and back.
  toDegrees([x, y]) { return fromUtm(this.toMetres([x, y]), this.zone, this.south); }

  toPoint(degrees) {
    const [easting, northing] = toUtm(degrees, this.zone, this.south);
    return [easting - this.middle[0], this.middle[1] - northing];
  }
}
