"""The draw page as files: a folder for any web server, or one HTML file that needs none.

The page reads `draw.json`, or the same document inside of the one file:

    version     1
    models      a list; the first of each direction is used
        direction         "map2sat" or "sat2map"
        name              for people
        url               of the network, relative to the page
        bytes, sha256     of that file
        size              side in pixels of the images it was trained on
        window            side in pixels of the largest image that goes through in one pass; larger ones go in windows
        stride            inputs are extended to a multiple of this many pixels, and windows start at multiples of it
        halo              pixels on each side that an output pixel depends on; null where that is not bounded
        overlap           pixels that windows share, where it is not
        noise_bands       of its noise image; 0: it has none
        metres_per_pixel  at which it was trained; null: not known
        trained_on, licence, note   sentences for people
        store             "fp16" or "int8": how its weights are kept in the file
        loss              what that costs: {"metric" (lpips, miou or ssim), "before", "after", "value", "limit",
                          "pairs", "of"}; null: not measured
    style       look of a map: `name`, `background` ("#rrggbb") and `rules`, the first of which is painted first.
                A rule: `kind`, `geometry` ("any", "line", "area"), `fill`, `width_m`, `min_width_px`,
                `width_px` ([[zoom, pixels], ...], or [] where metres count), `casing` (a colour or null), `casing_m`,
                `min_casing_px`
    table       which OpenStreetMap tags are which kind, in the order they are tried: `geometry` ("any", "line",
                "area"), `keys`, `kinds` {value or "*": kind}, `without` {key: values of what is left out}
    town        what a random town is laid out by; lengths in metres, places as fractions of its side
        widths     {highway, arterial, road, river, rail}
        river, rail, highways   waypoints [[x, y], ...] of smooth lines (Catmull-Rom); highways is a list of such lines
        wobble     standard deviation by which waypoints of [rivers and highways, rail] are moved
        arterials  metres from one to the next
        parks      of each quarter the centres [[x, y], ...], the larger one first
        park_radius  [metres at most, share of the side at most]
        square_parks share of the blocks that are parks
        blocks     {use: [along, across]} of downtown, houses, industry, field
        lots       {use: {frontage, setback, length: [low, high], depth: [low, high], kept}}, shares of a lot
    runtime     {"name", "version", "licence"} of what runs the network, and "bytes", of what of it is loaded for each
                backend: {"wasm", "webgpu"}; without webgpu the page does not have that
    embedded    whether all of it is inside of one file
    server      {"viewer", "layer"} where a map server has the page and takes uploads, else null: the address of the map
                viewer, and the layer whose model an upload gets
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from terramorph.atomic import atomic, write_text
from terramorph.bundle import Bundle, Header
from terramorph.cartography import Style, classic, load_table
from terramorph.cartography.style import RGB
from terramorph.errors import ConfigError, InputError
from terramorph.models import published
from terramorph.pixels import BYTE
from terramorph.town import layout

STATIC = Path(__file__).parent / "static"
RUNTIME = "onnxruntime-web"
_BACKENDS = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm.gz"),
    "webgpu": ("ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm.gz"),
}
"""Files of the runtime that each backend loads."""
PAGE, CONFIG = "index.html", "draw.json"
_ONE_FILE = "inside.js"
"""Static file of the one-file form alone."""


@dataclass(frozen=True)
class WebModel:
    """A network for browsers, and texts about it.

    Attributes:
        network: A file of `terramorph.interop.export_web`.
        name, trained_on, licence, note: Sentences for people, or empty.
    """

    network: Path
    name: str
    trained_on: str = ""
    licence: str = ""
    note: str = ""

    @cached_property
    def stated(self) -> tuple[Header, dict[str, str]]:
        """The header of the file, and all its metadata.

        Raises:
            ConfigError: If it was not exported for browsers.
        """
        return _read(self.network)

    @classmethod
    def of(cls, bundle: Bundle, network: Path, name: str) -> WebModel:
        """Describe a published model by the registry, any other by its bundle."""
        entry = published(bundle.path) if bundle.path is not None else None
        if entry is not None:
            return cls(network, entry.name, entry.trained_on, entry.licence, bundle.header.note)
        return cls(network, name, _trained_on(bundle.header), "", bundle.header.note)

    @classmethod
    def of_file(cls, network: Path) -> WebModel:
        """Describe a file of `terramorph.interop.export_web`, named by its file name.

        Raises:
            ConfigError: If it is none, or its quality was refused.
        """
        header, properties = _read(network)
        if properties.get("quality") == "refused":
            raise ConfigError(f"{network} lost too much quality ({properties['quality_loss']}); export it in fp16.")
        return cls(network, network.stem, _trained_on(header), "", header.note)

    def described(self, content: bytes) -> dict[str, Any]:
        """Return its entry in `draw.json`; `url` is that of a file beside it, whose name holds its digest.

        Raises:
            ConfigError: If the page cannot use it.
        """
        header, properties = self.stated
        loss = json.loads(properties["quality_scores"]) if "quality_scores" in properties else None
        slug, digest = re.sub(r"[^\w-]", "-", self.name), hashlib.sha256(content).hexdigest()
        return {
            "direction": direction(header),
            "name": self.name,
            "url": f"./{slug}-{digest[:8]}.onnx.gz",
            "bytes": len(content),
            "sha256": digest,
            "size": header.size,
            "window": 2 * header.size,
            "stride": header.stride,
            "halo": header.halo,
            "overlap": header.size // 2,
            "noise_bands": int(properties["noise_bands"]),
            "metres_per_pixel": header.ground_resolution,
            "trained_on": self.trained_on,
            "licence": self.licence,
            "note": self.note,
            "store": properties["store"],
            "loss": loss,
        }


def direction(header: Header) -> str:
    """Return the direction of a model; in pairs A|B, A is the photograph and B the map."""
    return "map2sat" if header.direction == "BtoA" else "sat2map"


def check_network(header: Header, name: str) -> None:
    """Refuse models of other bands than red, green and blue.

    Raises:
        ConfigError: If it is one.
    """
    for side, bands in (("takes", header.source), ("makes", header.target)):
        if bands.count != 3 or bands.scaling != BYTE:
            raise ConfigError(
                f"{name} {side} {bands.count} bands of {bands.dtype} from {bands.low:g} to {bands.high:g}, and the "
                "page draws red, green and blue from 0 to 255; give a model of those."
            )


def check_models(models: Sequence[tuple[str, Header]]) -> None:
    """Refuse models, by name and header, that make no page.

    Raises:
        ConfigError: If no model makes photographs of maps, two have one direction, or bands are others.
    """
    for name, header in models:
        check_network(header, name)
    found = [direction(header) for _, header in models]
    if "map2sat" not in found:
        raise ConfigError(
            "The page needs a model that makes photographs of maps (direction BtoA), such as town-map2sat; "
            f"{' and '.join(name for name, _ in models)} makes maps of photographs."
        )
    if len(set(found)) < len(found):
        raise ConfigError("The page takes one model of each direction; leave out one of them.")


def write_site(models: list[WebModel], out: str | Path, *, style: Style | None = None) -> Path:
    """Write the page as a folder for any web server: `index.html` and what it loads; `draw.json` last.

    Args:
        models: One that makes photographs of maps, and perhaps one of the other direction.
        out: A folder, made if missing; it may hold an earlier page, and nothing else.
        style: Style of the maps that the model knows; default classic.

    Returns:
        The folder.

    Raises:
        ConfigError: If a model cannot be used.
        InputError: If the folder holds something else.
        StorageError: If it cannot be written.
    """
    check_models([(one.name, one.stated[0]) for one in models])
    out = check_folder(Path(out))
    files, config = site_files(models, style=style)
    if not (out / CONFIG).is_file():  # by which a page is known whose writing ended early
        write_text(out / CONFIG, "{}", make_folder=True)
    settings = json.dumps(config, ensure_ascii=False, separators=(",", ":")).encode()
    for name, content in {**files, CONFIG: settings}.items():
        with atomic(out / name, make_folder=True) as part:
            part.write_bytes(content)
    for old in out.glob("*.onnx.gz"):
        if old.name not in files:
            old.unlink()
    return out


def check_folder(out: Path) -> Path:
    """Return a folder that a page may be written to; it may not exist yet.

    Raises:
        InputError: If it holds something other than an earlier page.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / CONFIG).is_file())):
        raise InputError(f"{out} exists and is not an earlier page; choose another `out`.")
    return out


def site_files(
    models: list[WebModel],
    *,
    style: Style | None = None,
    server: dict[str, str] | None = None,
    embedded: bool = False,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the page's files by name, without `draw.json`, and the content of that.

    Args:
        models: See `write_site`.
        style: See `write_site`.
        server: The entry of `draw.json`; addresses are relative to the page.
        embedded: Whether it becomes one file, which is kept small: without WebGPU.

    Raises:
        ConfigError: If a model cannot be used.
    """
    files = {
        path.relative_to(STATIC).as_posix(): path.read_bytes()
        for path in sorted(STATIC.rglob("*"))
        if path.is_file() and path.name not in (_ONE_FILE, "vendor.toml")
    }
    entries = []
    for model in models:
        content = gzip.compress(model.network.read_bytes(), mtime=0)
        entries.append(model.described(content))
        files[entries[-1]["url"].removeprefix("./")] = content
    runtime = tomllib.loads((STATIC / "vendor/vendor.toml").read_text(encoding="utf-8"))[RUNTIME]
    loads = {backend: [f"vendor/{RUNTIME}/{name}" for name in names] for backend, names in _BACKENDS.items()}
    if embedded:
        for name in loads.pop("webgpu"):
            del files[name]
    sizes = {backend: sum(len(files[name]) for name in names) for backend, names in loads.items()}
    config = {
        "version": 1,
        "models": entries,
        "style": style_table(classic() if style is None else style),
        "table": tag_table(),
        "town": town_rules(),
        "runtime": {"name": RUNTIME, "version": runtime["version"], "licence": runtime["licence"], "bytes": sizes},
        "embedded": embedded,
        "server": server,
    }
    return files, config


def style_table(style: Style) -> dict[str, Any]:
    """Return a style as plain data; see the module's text."""
    rules = []
    for rule in style.rules:
        values = asdict(rule)
        colours = {"fill": _hex(rule.fill), "casing": None if rule.casing is None else _hex(rule.casing)}
        rules.append({**values, **colours, "width_px": [list(pair) for pair in rule.width_px]})
    return {"name": style.name, "background": _hex(style.background), "rules": rules}


def tag_table() -> list[dict[str, Any]]:
    """Return the table osm as plain data; see the module's text."""
    names = {"geometry", "keys", "kinds", "without"}
    return [
        {**match.model_dump(include=names), "without": {key: sorted(values) for key, values in match.without.items()}}
        for match in load_table("osm").match
    ]


def town_rules() -> dict[str, Any]:
    """Return the rules of random towns; see the module's text."""
    return {
        "widths": {
            "highway": layout.HIGHWAY_M,
            "arterial": layout.ARTERIAL_M,
            "road": layout.STREET_M,
            "river": layout.RIVER_M,
            "rail": layout.RAIL_M,
        },
        "river": layout.RIVER,
        "rail": layout.RAIL,
        "highways": layout.HIGHWAYS,
        "wobble": [layout.WOBBLE, layout.RAIL_WOBBLE],
        "arterials": layout.ARTERIAL_STEP_M,
        "parks": layout.PARKS,
        "park_radius": layout.PARK_RADIUS,
        "square_parks": layout.SQUARE_PARKS,
        "blocks": layout.BLOCKS,
        "lots": {use: lot._asdict() for use, lot in layout.LOTS.items()},
    }


def _trained_on(header: Header) -> str:
    name = str(header.data.get("name") or header.data.get("dataset") or "pairs that the model does not name")
    pairs = header.data.get("pairs")
    return f"{name}, {pairs} pairs" if pairs else name


def _read(network: Path) -> tuple[Header, dict[str, str]]:
    """Read the header and all metadata of a network for browsers."""
    import onnx

    if not network.is_file():
        raise ConfigError(f"There is no file {network}; check the path, or export one for browsers.")
    try:
        model = onnx.load(str(network))
    except Exception as error:  # its errors share no base but Exception
        raise ConfigError(f"{network} is damaged or not an ONNX file; export it again for browsers.") from error
    found = {entry.key: entry.value for entry in model.metadata_props}
    if not {"terramorph", "store", "noise_bands"} <= found.keys():
        raise ConfigError(f"{network} was not exported for browsers; export it for them first.")
    return Header.model_validate_json(found["terramorph"]), found


def _hex(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
