"""The page about a prepared dataset: what it shows, counts and draws, and what it says of a damaged one."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pytest
import shapely
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image

from terramorph.errors import DatasetError, StorageError
from terramorph.geo import Grid
from terramorph.pairs.manifest import AreaRecord, Manifest, SideRecord
from terramorph.prepare.page.inspect import histogram, inspect, summary
from terramorph.prepare.page.sheets import direction
from terramorph.raster import Raster, write_image
from terramorph.report.numbers import percent

TILE, COLUMNS, ROWS = 32, 8, 6
LEFT, TOP = 392_000.0, 5_820_000.0
Change = Callable[[pandas.DataFrame], None]


def _side(path: str, licence: str | None = None, dtype: str = "uint8") -> SideRecord:
    limits = (0.0, 1000.0) if dtype != "uint8" else None
    return SideRecord(
        path=path, fingerprint="ab" * 16, bands=("red", "green", "blue"), dtype=dtype, range=limits, licence=licence
    )


def _rows(columns: int, rows: int, crs: str | None) -> geopandas.GeoDataFrame:
    """The table of a small town: train on the left, a buffer, test on the right; nothing wrong with any tile."""
    row, col = (v.ravel() for v in np.mgrid[0:rows, 0:columns])
    count = len(row)
    split = np.where(col < columns // 2, "train", np.where(col == columns // 2, None, "test")).astype(object)
    scale = 1e-5 if crs == "EPSG:4326" else 1.0
    left, top = (13.4, 52.5) if crs == "EPSG:4326" else (LEFT, TOP)
    x, y = left + scale * TILE * col, top - scale * TILE * row
    size = scale * TILE
    rings = np.stack(
        [np.stack([x + a * size, y - b * size], -1) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))], 1
    )
    ones = np.ones(count)
    columns_of: dict[str, Any] = {
        "id": [f"town_{r + 1:02d}_{c + 1:02d}" for r, c in zip(row, col, strict=True)],
        "area": ["town"] * count,
        "split": split,
        "dropped": [None if s else "buffer" for s in split],
        "row": row.astype(np.int32),
        "col": col.astype(np.int32),
        "y": (row * TILE).astype(np.int32),
        "x": (col * TILE).astype(np.int32),
        "nodata": 0 * ones,
        "source_blank": 0.2 * ones,
        "target_blank": 0.5 * ones,
        "source_detail": 8 * ones,
        "target_detail": 2 * ones,
        "haze": 0 * ones,
        "labels": 0 * ones,
        "dx": 0.1 * ones,
        "dy": 0 * ones,
        "confidence": 0.9 * ones,
        "hash": [f"{i:016x}" for i in range(count)],
        "duplicates": pandas.array([None] * count, dtype="Int32"),
        "note": [None] * count,
        "dx_m": 0.1 * ones,
        "dy_m": 0 * ones,
        "block_dx": 0.1 * ones,
        "block_dy": 0 * ones,
        "block_confidence": 0.9 * ones,
    }
    return geopandas.GeoDataFrame(columns_of, geometry=shapely.polygons(rings), crs=crs)


def _dataset(
    root: Path,
    change: Change | None = None,
    *,
    crs: str | None = "EPSG:32633",
    columns: int = COLUMNS,
    rows: int = ROWS,
    images: bool = True,
    deep: bool = False,
) -> Path:
    """A prepared dataset in its own format, with `change` made to its table before anything follows from that."""
    frame = _rows(columns, rows, crs)
    if change is not None:
        change(frame)
    kept = frame[frame["split"].notna()]
    affine = Affine(1.0, 0.0, LEFT, 0.0, -1.0, TOP)
    side = _side("aerial.tif", "CC-BY 4.0", "uint16") if deep else _side("aerial.tif", "CC-BY 4.0")
    manifest = Manifest(
        terramorph="0.0",
        settings={
            "overlap": 0,
            "split": {"method": "blocks", "fractions": [0.8, 0.1, 0.1]},
            "clean_labels": False,
        },
        ground_resolution=0.5,
        tile=TILE,
        areas=(
            AreaRecord(
                name="town",
                source=side,
                target=_side("map <1>.tif"),
                grid=Grid(rows * TILE, columns * TILE, affine, crs and CRS(crs)),
            ),
        ),
        counts={},
        pairs={
            split: {r.id: (0, int(r.y), int(r.x)) for r in members.itertuples()}
            for split, members in kept.groupby("split")
        },
    )
    root.mkdir(exist_ok=True)
    manifest.save(root)
    frame.to_parquet(root / "footprints.parquet", index=False)
    rng = np.random.default_rng(0)
    for split, name in zip(kept["split"], kept["id"], strict=True) if images else ():
        if deep:
            for folder in ("A", "B"):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 1000, (4, TILE, TILE), dtype=np.uint16)
            write_image(Raster.from_pixels(pixels, mask=pixels[0] > 100), root / split / "A" / f"{name}.tif")
            write_image(Raster.from_pixels(pixels[:1].astype(np.float32)), root / split / "B" / f"{name}.tif")
            continue
        (root / split).mkdir(exist_ok=True)
        whole = rng.integers(0, 256, (TILE, 2 * TILE, 3), dtype=np.uint8)
        Image.fromarray(whole).save(root / split / f"{name}.png")
    return root


def _set(name: str, values: dict[int, Any]) -> Change:
    """A change that sets some rows of a column."""

    def change(frame: pandas.DataFrame) -> None:
        for index, value in values.items():
            frame.loc[index, name] = value

    return change


def _read(page: Path) -> tuple[str, str]:
    """The visible text with single spaces, and the page."""
    html = page.read_text(encoding="utf-8")
    visible = re.sub(r"<(style|script|title).*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", visible))), html


def _pictures(html: str) -> list[Image.Image]:
    sources = re.findall(r'<img src="data:image/[a-z]+;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def _shapes(html: str) -> dict[str, Any]:
    """What a tile says -> its corners (K, 2), of the first map."""
    svg = html[html.index('aria-label="Tiles by split"') :]
    found = re.findall(r'<a><title>([^<]+)</title> <path d="([^"]+)"', svg[: svg.index("</svg>")])
    return {title.split("\n")[0]: np.array(re.findall(r"[\d.]+", d), np.float64).reshape(-1, 2) for title, d in found}


def _bar(html: str) -> tuple[float, str]:
    """How long the first scale bar is, and what it says."""
    svg = html[html.index('aria-label="Tiles by split"') :]
    bar = re.search(r'd="M ([\d.]+) [\d.]+  L ([\d.]+) [\d.]+ *"[^>]*stroke: var\(--soft\)', svg)
    text = re.search(r"<text[^>]*>([\d.]+ [a-z]+)</text>", svg)
    assert bar is not None
    assert text is not None
    return float(bar[2]) - float(bar[1]), text[1]


def test_page_is_one_file_that_opens_with_pictures_and_figures(tmp_path: Path) -> None:
    page = inspect(_dataset(tmp_path / "set"))
    assert page == tmp_path / "set" / "inspect.html"
    text, html = _read(page)
    assert not re.search(r'(?:src|href)="(?!data:image|#)', html)
    assert "map <1>.tif" in text  # escaped in the file
    assert all(said in text for said in ("CC-BY 4.0", "ab" * 16, "split.fractions 0.8, 0.1, 0.1", "clean_labels no"))
    assert _pictures(html)[0].size == (TILE, TILE)
    order = [html.index(part) for part in ("No fault", "<img", ">source<", ">target<", 'class="cards"', "<h2>")]
    assert order == sorted(order)


def test_page_can_go_elsewhere(tmp_path: Path) -> None:
    root = _dataset(tmp_path / "set", images=False)
    assert inspect(root, tmp_path / "page.html") == tmp_path / "page.html"
    assert not (root / "inspect.html").exists()
    with pytest.raises(StorageError, match="cannot be written"):
        inspect(root, tmp_path / "nowhere" / "page.html")


def test_good_dataset_has_figures_and_no_faults(tmp_path: Path) -> None:
    root = _dataset(tmp_path / "set")
    figures = summary(root)
    assert figures["tiles"] == 48
    assert figures["pairs"] == {"train": 24, "val": 0, "test": 18}
    assert figures["left_out"] == {"buffer": 6}
    assert (figures["missing"], figures["strangers"], figures["leaks"], figures["suspicious"]) == (0, 0, 0, 0)
    assert figures["median_shift"] == pytest.approx(0.1)
    assert figures["median_shift_m"] == pytest.approx(0.05)
    assert figures["offset"] == (0.1, 0.0)
    assert figures["misregistered"] == 0
    json.dumps(figures, allow_nan=False)
    text, html = _read(inspect(root))
    assert "Splits without pairs: val." in text
    assert '<li class="bad"' not in html


def test_map_has_a_titled_shape_a_tile_in_its_proportions(tmp_path: Path) -> None:
    html = inspect(_dataset(tmp_path / "set", images=False)).read_text(encoding="utf-8")
    shapes = _shapes(html)
    assert len(shapes) == 48
    assert "town_01_05: left out, buffer" in shapes
    first, last = shapes["town_01_01: train"], shapes["town_06_08: test"]
    assert np.ptp(first[:, 0]) == pytest.approx(np.ptp(first[:, 1]), abs=0.11)
    # South-east on the ground is right and down on the page.
    assert (last.mean(axis=0) > first.mean(axis=0)).all()
    long, said = _bar(html)
    # Tiles are 32 m wide: UTM's nominal metres.
    assert f"{long * TILE / np.ptp(first[:, 0]):.0f} m" == said


def test_degrees_are_drawn_narrower_and_measured_in_metres(tmp_path: Path) -> None:
    html = inspect(_dataset(tmp_path / "set", crs="EPSG:4326", images=False)).read_text(encoding="utf-8")
    points = next(iter(_shapes(html).values()))
    assert np.ptp(points[:, 0]) / np.ptp(points[:, 1]) == pytest.approx(np.cos(np.radians(52.5)), abs=0.02)
    long, said = _bar(html)
    degree = 111_270  # metres of latitude at 52.5 degrees
    assert long * TILE * 1e-5 * degree / np.ptp(points[:, 1]) == pytest.approx(float(said.removesuffix(" m")), rel=0.01)


def test_plane_without_crs_has_no_metres(tmp_path: Path) -> None:
    html = inspect(_dataset(tmp_path / "set", crs=None, images=False)).read_text(encoding="utf-8")
    assert _bar(html)[1].endswith(" units")


def test_many_tiles_are_painted(tmp_path: Path) -> None:
    page = inspect(_dataset(tmp_path / "set", columns=80, rows=70, images=False))
    html = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 400_000
    picture = re.search(r'<image [^>]*href="data:image/png;base64,([^"]+)"', html)
    assert picture is not None
    # Train lies in the west and test in the east.
    whole = Image.open(io.BytesIO(base64.b64decode(picture[1]))).convert("RGB").resize((8, 4))
    assert max(abs(a - b) for a, b in zip(whole.getpixel((1, 2)), (0x2C, 0x7D, 0x69), strict=True)) < 3


def test_suspicious_pairs_come_with_reasons_worst_first(tmp_path: Path) -> None:
    def change(frame: pandas.DataFrame) -> None:
        frame.loc[0, ["labels", "nodata"]] = 0.1, 0.05
        frame.loc[1, ["dx", "dy"]] = -3.0, 4.0
        frame.loc[2, "target_blank"] = 0.999
        frame.loc[3, ["dx", "dy", "confidence"]] = 9.0, 9.0, 0.2  # a guess
        frame.loc[5, "haze"] = 0.35

    root = _dataset(tmp_path / "set", change)
    text, _ = _read(inspect(root))
    sheet = text[text.index("The most suspicious pairs") : text.index("The best pairs")]
    names = re.findall(r"(town_\d\d_\d\d) (?:train|test)", sheet)
    assert names == ["town_01_03", "town_01_01", "town_01_02", "town_01_06"]
    assert "99.9 % of the target in one colour" in sheet
    assert "5 % without data ; labels on 10 % of the target" in sheet
    assert "misregistered by 5.0 px (3.0 px left, 4.0 px down)" in sheet
    assert "haze or cloud on 35 % of the source" in sheet
    best = re.findall(r"(town_\d\d_\d\d) (?:train|test)", text[text.index("The best pairs") :])
    assert len(best) == 8
    assert not set(best) & set(names)
    assert summary(root)["suspicious"] == 4
    assert summary(root)["misregistered"] == pytest.approx(1 / 41)


def test_sheet_is_not_filled_with_one_ground(tmp_path: Path) -> None:
    def change(frame: pandas.DataFrame) -> None:
        frame.loc[frame["split"] == "train", "target_blank"] = 1.0
        frame.loc[frame["split"] == "test", "labels"] = 0.1

    text, _ = _read(inspect(_dataset(tmp_path / "set", change, images=False)))
    sheet = text[text.index("The most suspicious pairs") : text.index("The best pairs")]
    assert sheet.count("100 % of the target in one colour") == 8  # 4 of each first, then by suspicion
    assert sheet.count("labels on 10 %") == 4


def test_sides_without_common_structure_are_doubted(tmp_path: Path) -> None:
    text, _ = _read(inspect(_dataset(tmp_path / "set", _set("confidence", {7: 0.02}), images=False)))
    assert "the sides share no structure" in text


def test_common_offset_is_said_in_pixels_and_metres(tmp_path: Path) -> None:
    def change(frame: pandas.DataFrame) -> None:
        frame["dx"], frame["dy"] = 3.0, -2.0

    root = _dataset(tmp_path / "set", change, images=False)
    text, _ = _read(inspect(root))
    assert "town: the target lies 3.6 px (3.61 m) off the source, 3.0 px (3 m) right, 2.0 px (2 m) up" in text
    assert "prepare with --register" in text
    assert summary(root)["offset"] == (3.0, -2.0)


def test_without_sure_shifts_there_is_no_offset(tmp_path: Path) -> None:
    root = _dataset(tmp_path / "set", lambda frame: frame.__setitem__("confidence", 0.1), images=False)
    assert "town: no consistent offset; too few tiles tell a shift" in _read(inspect(root))[0]
    figures = summary(root)
    assert (figures["offset"], figures["median_shift"], figures["misregistered"]) == (None, None, None)


def test_look_alikes_across_splits_are_a_fault(tmp_path: Path) -> None:
    def change(frame: pandas.DataFrame) -> None:
        for group, members in enumerate(((0, 7), (1, 2, 3)), start=1):
            frame.loc[list(members), "duplicates"] = group

    root = _dataset(tmp_path / "set", change)
    figures = summary(root)
    assert (figures["duplicates"], figures["leaks"]) == (2, 1)
    text, _ = _read(inspect(root))
    assert "Look-alikes in several splits: 1;" in text
    assert "looks like town_01_08 (test), in another split" in text
    assert "looks like town_01_03 (train) and town_01_04 (train)" in text


def test_look_alike_that_was_left_out_is_no_leak(tmp_path: Path) -> None:
    def change(frame: pandas.DataFrame) -> None:
        frame.loc[[0, 7], "duplicates"] = 1
        frame.loc[0, "split"], frame.loc[0, "dropped"] = None, "duplicate"

    figures = summary(_dataset(tmp_path / "set", change, images=False))
    assert (figures["duplicates"], figures["leaks"]) == (0, 0)
    assert figures["left_out"] == {"buffer": 6, "duplicate": 1}


def test_missing_and_damaged_images_are_listed(tmp_path: Path) -> None:
    root = _dataset(tmp_path / "set", _set("labels", {0: 0.2, 1: 0.2}))
    (root / "train" / "town_01_01.png").unlink()
    (root / "train" / "town_01_02.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (root / "test" / "stranger.png").write_bytes((root / "test" / "town_01_06.png").read_bytes())
    text, _ = _read(inspect(root))
    assert "1 of train without an image: town_01_01" in text
    assert "The image of town_01_01 is missing." in text
    assert "The pair town_01_02 of train cannot be read" in text
    assert "Pairs that cannot be shown here: 2." in text
    assert "Images that the manifest does not name, and that are trained on: 1." in text
    figures = summary(root)
    assert (figures["missing"], figures["strangers"]) == (1, 1)


def test_dataset_without_any_image_is_still_shown(tmp_path: Path) -> None:
    root = _dataset(tmp_path / "set", images=False)
    assert summary(root)["missing"] == 42
    assert "24 of train without an image" in _read(inspect(root))[0]


def test_deep_twins_are_shown(tmp_path: Path) -> None:
    text, html = _read(inspect(_dataset(tmp_path / "set", deep=True)))
    assert "red, green, blue; uint16, 0 to 1000" in text
    source, target = _pictures(html)[:2]
    assert source.mode == target.mode == "RGB"
    # Values 0 to 1000 of noise fill the range; grey stays grey.
    assert np.asarray(target).std() > 40
    assert np.ptp(np.asarray(target).astype(int), axis=2).max() <= 4


def test_pairs_that_came_as_pairs_have_no_map(tmp_path: Path) -> None:
    root = _dataset(tmp_path / "set")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["areas"][0]["grid"] = manifest["tile"] = manifest["ground_resolution"] = None
    (root / "manifest.json").write_text(json.dumps(manifest))
    frame = _rows(COLUMNS, ROWS, None)
    frame["geometry"] = geopandas.GeoSeries([None] * len(frame))
    frame.set_geometry("geometry").to_parquet(root / "footprints.parquet", index=False)
    text, _ = _read(inspect(root))
    assert "48 tiles without a place on the ground" in text
    assert summary(root)["median_shift_m"] is None


def test_far_areas_have_maps_of_their_own(tmp_path: Path) -> None:
    def change(frame: pandas.DataFrame) -> None:
        east = frame["col"] >= 4
        frame.loc[east, "area"] = "far"
        frame.loc[east, "geometry"] = frame.loc[east, "geometry"].translate(50_000)

    root = _dataset(tmp_path / "set", change, images=False)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["areas"].append({**manifest["areas"][0], "name": "far"})
    (root / "manifest.json").write_text(json.dumps(manifest))
    text, html = _read(inspect(root))
    assert "far 24 tiles" in text
    assert "town 24 tiles" in text
    assert html.count("Tiles by split") == 2


def test_folders_that_are_no_prepared_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"holds no manifest\.json, so it is not a prepared dataset"):
        inspect(tmp_path)


@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "other", "columns", "text"])
def test_damaged_table_is_a_sentence(tmp_path: Path, damage: str) -> None:
    root = _dataset(tmp_path / "set", images=False)
    path = root / "footprints.parquet"
    whole = path.read_bytes()
    frame = geopandas.read_parquet(path)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        pandas.DataFrame({"a": [1]}).to_parquet(path)
    elif damage == "columns":
        frame.drop(columns="haze").to_parquet(path)
    else:
        frame.assign(haze="much").to_parquet(path)
    with pytest.raises(DatasetError, match=r"footprints\.parquet (is missing|cannot be read \(.+\)); run the same"):
        summary(root)


def test_table_and_manifest_that_disagree_are_a_fault(tmp_path: Path) -> None:
    root = _dataset(tmp_path / "set")
    _rows(COLUMNS - 1, ROWS, "EPSG:32633").to_parquet(root / "footprints.parquet", index=False)
    assert "name different pairs" in _read(inspect(root))[0]


def test_histogram_marks_the_median_of_what_was_kept() -> None:
    values = np.array([0.0, 0.1, 0.1, 0.4, np.nan])
    drawn = histogram(values, np.array([True, True, True, False, True]), percent)
    assert drawn is not None
    assert "median 10 %" in drawn
    assert drawn.count("fill: var(--accent)") == 2
    assert drawn.count('style="fill: var(--soft)"') == 1
    assert histogram(np.full(3, 0.5), np.ones(3, np.bool_), percent) is None
    assert histogram(np.full(3, np.nan), np.ones(3, np.bool_), percent) is None


def test_directions_in_words() -> None:
    assert direction(0.0, 0.01) == "not at all"
    assert direction(-1.0, 2.0, 0.25) == "1.0 px (25 cm) left, 2.0 px (50 cm) down"
