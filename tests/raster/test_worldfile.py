from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.crs import CRS
from PIL import Image
from pyproj import Transformer

from terramorph.errors import RasterError
from terramorph.raster import read_image
from terramorph.raster.mapfile import calibrated_image, fit_affine
from terramorph.raster.worldfile import find_world_file, place_files, prj_text, read_crs, read_place
from terramorph.sources import open_source

WORLD = "0.5\n0\n0\n-0.5\n500000.25\n3999999.75\n"
AFFINE = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
MERCATOR, WORLD_MERCATOR, DEGREES = CRS("EPSG:3857"), CRS("EPSG:3395"), CRS("EPSG:4326")
HEIGHT, WIDTH = 600, 800
PLACE = Affine(0.6, 0, 1_252_344, 0, -0.6, 5_430_000)

POPULAR_VISUALISATION = (
    'PROJCS["Popular Visualisation CRS / Mercator",\r\nGEOGCS["Popular Visualisation CRS",'
    'DATUM["Popular_Visualisation_Datum",SPHEROID["Popular Visualisation Sphere",6378137,0,AUTHORITY["EPSG","7059"]],'
    'TOWGS84[0,0,0,0,0,0,0],AUTHORITY["EPSG","6055"]],PRIMEM["Greenwich",0,AUTHORITY["EPSG","8901"]],'
    'UNIT["degree",0.01745329251994328,AUTHORITY["EPSG","9122"]],AUTHORITY["EPSG","4055"]],'
    'UNIT["metre",1,AUTHORITY["EPSG","9001"]],PROJECTION["Mercator_1SP"],PARAMETER["central_meridian",0],'
    'PARAMETER["scale_factor",1],PARAMETER["false_easting",0],PARAMETER["false_northing",0],'
    'AUTHORITY["EPSG","3785"],AXIS["X",EAST],AXIS["Y",NORTH]]'
)
GOOGLE = (
    'PROJCS["Mercator_1SP",GEOGCS["Geographic Coordinate System",DATUM["GOOGLE",'
    'SPHEROID["Sphere Radius 6378137 m",6378137,0]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
    'PROJECTION["Mercator_1SP"],PARAMETER["scale_factor",1],PARAMETER["central_meridian",0],'
    'PARAMETER["latitude_of_origin",0],PARAMETER["false_easting",0],PARAMETER["false_northing",0],UNIT["Meter",1]]'
)


def blank(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        WORLD.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + WORLD.encode(),
        WORLD.encode("utf-16"),
        WORLD.replace(".", ",").encode(),
        WORLD.replace(".", ",").replace("\n", "\r\n").encode() + b"\r\n",
        b"  0.5 0 0 -0.5 5.0000025e5 3999999.75",
    ],
    ids=["crlf", "bom", "utf-16", "comma", "comma-crlf", "one-line"],
)
def test_world_files_as_other_programs_write_them(tmp_path, content):
    (tmp_path / "a.jgw").write_bytes(content)
    place = read_place(tmp_path / "a.jpg")
    assert place == (AFFINE, None)


def test_a_world_file_named_after_any_suffix_is_found(tmp_path):
    (tmp_path / "a.jp2w").write_text(WORLD)
    assert find_world_file(tmp_path / "a.jp2") == tmp_path / "a.jp2w"


@pytest.mark.parametrize("wkt", [POPULAR_VISUALISATION, GOOGLE])
def test_web_mercator_by_older_names_is_web_mercator(tmp_path, wkt):
    (tmp_path / "a.prj").write_text(wkt)
    assert read_crs(tmp_path / "a.jpg") == MERCATOR


def test_other_mercators_stay_what_they_are(tmp_path):
    (tmp_path / "a.prj").write_text(GOOGLE.replace('"central_meridian",0', '"central_meridian",33'))
    assert read_crs(tmp_path / "a.jpg") != MERCATOR
    (tmp_path / "b.prj").write_text(prj_text(WORLD_MERCATOR))
    assert read_crs(tmp_path / "b.jpg") == WORLD_MERCATOR


def test_crs_of_aux_xml_follows_that_of_prj(tmp_path):
    path = tmp_path / "a.jpg"
    (tmp_path / "a.jgw").write_text(WORLD)
    (tmp_path / "a.jpg.aux.xml").write_text(f"<PAMDataset>\r\n<SRS>{POPULAR_VISUALISATION}</SRS></PAMDataset>")
    assert read_place(path) == (AFFINE, MERCATOR)
    (tmp_path / "a.prj").write_text(prj_text(CRS("EPSG:32633")))
    assert read_place(path) == (AFFINE, CRS("EPSG:32633"))
    assert [file.name for file in place_files(path)] == ["a.jgw", "a.jpg.aux.xml", "a.prj"]


def test_transform_of_aux_xml_comes_before_the_world_file(tmp_path):
    path = tmp_path / "a.jpg"
    aux = tmp_path / "a.jpg.aux.xml"
    (tmp_path / "a.jgw").write_text(WORLD)
    aux.write_text("<PAMDataset><GeoTransform> 7, 2, 0,  9, 0, -2</GeoTransform></PAMDataset>")
    assert read_place(path) == (Affine(2, 0, 7, 0, -2, 9), None)
    for damaged in ("<PAMDataset>", "<PAMDataset><GeoTransform>1,2</GeoTransform></PAMDataset>",
                    "<PAMDataset><GeoTransform>1,0,0,1,0,0</GeoTransform></PAMDataset>"):  # fmt: skip
        aux.write_text(damaged)
        with pytest.raises(RasterError, match=r"a\.jpg\.aux\.xml"):
            read_place(path)


def lattice(affine: Affine, crs: CRS) -> list[tuple[int, int, float, float]]:
    """Nine points as SAS.Planet lays them: column, row, longitude, latitude."""
    to_degrees = Transformer.from_crs(crs.proj, 4326, always_xy=True)
    pixels = [(x, y) for y in (0, HEIGHT // 2, HEIGHT) for x in (0, WIDTH // 2, WIDTH)]
    return [(x, y, *to_degrees.transform(*(affine @ (x, y)))) for x, y in pixels]


def ozi_text(points: list[tuple[int, int, float, float]], projection: str = "Mercator", datum: str = "WGS 84") -> str:
    lines = ["OziExplorer Map Data File Version 2.2", "a.jpg", "a.jpg", "1 ,Map Code,",
             f"{datum},,   0.0000,   0.0000,WGS 84", "Reserved 1", "Reserved 2", "Magnetic Variation,,,E",
             f"Map Projection,{projection},PolyCal,No,AutoCalOnly,No,BSBUseWPX,No"]  # fmt: skip
    for number, (x, y, lon, lat) in enumerate(points, start=1):
        north = f"{int(abs(lat))}, {abs(lat) % 1 * 60:.4f},{'N' if lat >= 0 else 'S'}"
        east = f"{int(abs(lon))}, {abs(lon) % 1 * 60:.4f},{'E' if lon >= 0 else 'W'}"
        lines.append(f"Point{number:02},xy,    {x}, {y},in, deg, {north}, {east}, grid,   ,           ,           ,N")
    lines.append("Point10,xy,     ,     ,in, deg,    ,        ,N,    ,        ,W, grid,   ,           ,           ,N")
    lines += ["Projection Setup,,,,,,,,,,", "MMPNUM,4", "MMPXY,1,0,0", "MOP,Map Open Position,0,0",
              f"IWH,Map Image Width/Height,{WIDTH},{HEIGHT}"]  # fmt: skip
    return "\r\n".join(lines) + "\r\n"


def tab_text(points: list[tuple[int, int, float, float]], system: str, units: str = "degree") -> str:
    rows = ",\r\n".join(f'  ({x:.8f}, {y:.8f}) ({c}, {r}) Label "Point 1"' for c, r, x, y in points)
    return (
        '!table\r\n!version 300\r\n!charset Neutral\r\n\r\nDefinition Table\r\n  File "a.jpg"\r\n  Type "RASTER"\r\n'
        f'{rows}\r\n CoordSys Earth Projection {system}\r\n Units "{units}"\r\n'
    )


def off(affine: Affine, other: Affine) -> float:
    """Pixels by which two affines differ at the corners, at most."""
    apart = [np.subtract(~other @ (affine @ c), c) for c in ((0, 0), (WIDTH, 0), (0, HEIGHT), (WIDTH, HEIGHT))]
    return float(np.hypot(*np.transpose(apart)).max())


@pytest.mark.parametrize(
    ("affine", "crs"),
    [
        (PLACE, MERCATOR),
        (PLACE, WORLD_MERCATOR),
        (Affine(0.6, 0, -8_000_000, 0, -0.6, -5_430_000), MERCATOR),
        (Affine(0.075, 0, 1_252_344, 0, -0.075, 5_430_000), MERCATOR),
        (Affine(150, 0, 1_252_344, 0, -150, 5_430_000), WORLD_MERCATOR),
    ],
    ids=["web", "world", "south-west", "zoom-21", "zoom-10"],
)
def test_ozi_map_as_sas_planet_writes_it(tmp_path, affine, crs):
    path = blank(tmp_path / "a.jpg")
    (tmp_path / "a.map").write_text(ozi_text(lattice(affine, crs)), newline="")
    found, found_crs = read_place(path, (HEIGHT, WIDTH))
    assert found_crs == crs, "square pixels tell the two Mercators apart"
    minutes_lost = 0.5e-4 / 60 * 111_320 * 1.5 / affine.a  # in pixels; a metre of Mercator is less than one on Earth
    assert off(found, affine) < minutes_lost
    assert read_image(path).grid.crs == crs


def test_ozi_map_in_degrees(tmp_path):
    affine = Affine(1e-5, 0, 33.3, 0, -1e-5, 44.9)
    (tmp_path / "a.map").write_text(ozi_text(lattice(affine, DEGREES), "Latitude/Longitude"))
    found, crs = read_place(tmp_path / "a.jpg")
    assert crs == DEGREES
    assert off(found, affine) < 0.2


def test_ozi_map_of_another_datum_is_read_through_gdal(tmp_path):
    path = blank(tmp_path / "a.jpg")
    points = lattice(Affine(1e-5, 0, 33.3, 0, -1e-5, 44.9), DEGREES)
    (tmp_path / "a.map").write_text(ozi_text(points, "Latitude/Longitude", "Pulkovo 1942 (1)"))
    assert read_place(path)[1] == CRS("EPSG:4284")
    (tmp_path / "a.map").write_text(ozi_text(points, "Latitude/Longitude", "Atlantis"))
    with pytest.raises(RasterError, match=r"a\.map.*Atlantis"):
        read_place(path)


@pytest.mark.parametrize(
    ("system", "crs"),
    [("10, 157, 7, 0", MERCATOR), ("10, 104, 7, 0", WORLD_MERCATOR), ("1, 104", MERCATOR), ("1, 104", DEGREES)],
)
def test_tab_as_sas_planet_writes_it(tmp_path, system, crs):
    affine = Affine(1e-5, 0, 33.3, 0, -1e-5, 44.9) if crs == DEGREES else PLACE
    (tmp_path / "a.tab").write_text(tab_text(lattice(affine, crs), system), newline="")
    found, found_crs = read_place(tmp_path / "a.jpg")
    assert found_crs == crs
    assert off(found, affine) < 0.02


def test_tab_in_metres_and_in_other_systems(tmp_path):
    metres = [(x, y, *(PLACE @ (x, y))) for x, y in ((0, 0), (WIDTH, 0), (0, HEIGHT))]
    (tmp_path / "a.tab").write_text(tab_text(metres, "10, 157, 7, 0", "m"))
    found, crs = read_place(tmp_path / "a.jpg")
    assert crs == MERCATOR
    assert off(found, PLACE) < 1e-6
    (tmp_path / "a.tab").write_text(tab_text(metres, "8, 1001, 7, 39, 0, 1, 7500000, 0", "m"))
    assert read_place(tmp_path / "a.jpg")[1] == CRS("EPSG:28407")
    own = "25, -141, -80, 0, 0, 0, 0, 0"  # a datum's parameters in the file itself
    (tmp_path / "a.tab").write_text(tab_text(metres, f'8, 9999, 3, {own}, "m", 39, 0, 1, 7500000, 0', "m"))
    shift = "+towgs84=25,-141,-80"
    said = CRS(f"+proj=tmerc +lat_0=0 +lon_0=39 +k=1 +x_0=7500000 +y_0=0 +ellps=krass {shift} +units=m")
    places = [Transformer.from_crs(crs.proj, 4326, always_xy=True).transform(7_400_000, 6_200_000)
              for crs in (read_place(tmp_path / "a.jpg")[1], said)]  # fmt: skip
    assert places[0] == pytest.approx(places[1], abs=1e-9)
    (tmp_path / "a.tab").write_text(tab_text(metres, "99, 104", "m"))
    with pytest.raises(RasterError, match=r"a\.tab.*99, 104"):
        read_place(tmp_path / "a.jpg")


def test_damaged_calibrations_are_named(tmp_path):
    path = tmp_path / "a.jpg"
    points = lattice(PLACE, MERCATOR)
    bent = [*points[:4], (points[4][0] + 3, *points[4][1:]), *points[5:]]
    for text in (ozi_text(bent), ozi_text(points[:1]), ozi_text(points[:3]), ozi_text([]),
                 ozi_text(points).replace("deg, 43", "deg, x"),
                 "OziExplorer Map Data File Version 2.2\n"):  # fmt: skip
        (tmp_path / "a.map").write_text(text)
        with pytest.raises(RasterError, match=r"a\.map"):
            read_place(path)
    (tmp_path / "a.map").write_text(ozi_text(points))
    with pytest.raises(RasterError, match=r"a\.map is of an image of 600 x 800 .* has 300 x 400"):
        read_place(path, (300, 400))


def test_files_of_other_programs_and_images_are_passed_over(tmp_path):
    path = blank(tmp_path / "b.jpg")
    (tmp_path / "b.map").write_text('{"version": 3, "sources": []}')
    (tmp_path / "b.tab").write_text('!table\n!version 300\nDefinition Table\n  Type NATIVE Charset "Neutral"\n')
    assert read_place(path) is None
    (tmp_path / "b.map").write_text(ozi_text(lattice(PLACE, MERCATOR)))
    assert read_place(path) is not None, "the image was renamed"
    blank(tmp_path / "a.jpg")
    assert read_place(path) is None, "it is of the image a.jpg, which is there"


def test_a_map_gives_its_crs_to_the_world_file_it_agrees_with(tmp_path):
    path = tmp_path / "a.jpg"
    (tmp_path / "a.jgw").write_text(f"0.6\n0\n0\n-0.6\n{PLACE.c + 0.3!r}\n{PLACE.f - 0.3!r}\n")
    (tmp_path / "a.map").write_text(ozi_text(lattice(PLACE, MERCATOR)))
    found, crs = read_place(path, (HEIGHT, WIDTH))
    assert crs == MERCATOR
    assert off(found, PLACE) < 1e-6, "the world file is the more exact of the two"
    (tmp_path / "a.jgw").write_text(f"0.6\n0\n0\n-0.6\n{PLACE.c + 9!r}\n{PLACE.f!r}\n")
    assert read_place(path, (HEIGHT, WIDTH))[1] is None


def test_the_image_of_a_map(tmp_path):
    image = blank(tmp_path / "A.JPG")
    file = tmp_path / "other.map"
    file.write_text(ozi_text(lattice(PLACE, MERCATOR)))
    assert calibrated_image(file) == image
    assert calibrated_image(image) is None
    image.unlink()
    with pytest.raises(RasterError, match=r"other\.map is of the image 'a\.jpg'"):
        calibrated_image(file)


def test_fit_of_two_points_is_upright_and_of_three_any():
    turned = Affine(2, 1, 10, -1, 3, 20)
    points = np.array([(x, y, *(turned @ (x, y))) for x, y in ((0, 0), (9, 0), (0, 9))])
    fitted, miss = fit_affine(points)
    assert fitted.almost_equals(turned, 1e-9)
    assert miss < 1e-9
    fitted, _ = fit_affine(np.array([(0, 0, 5, 9), (10, 20, 25, -31)], float))
    assert fitted.almost_equals(Affine(2, 0, 5, 0, -2, 9), 1e-9)
    for useless in ([(0, 0, 5, 9)], [(0, 0, 1, 1), (0, 5, 3, 3)], [(0, 0, 1, 1), (1, 1, 2, 2), (2, 2, 3, 3)]):
        assert fit_affine(np.array(useless, float)) == (None, float("inf"))


@pytest.mark.parametrize(("suffix", "page"), [("map", "cp1251"), ("tab", "cp1251"), ("tab", "utf-8"), ("map", "cp932")])
def test_calibrations_in_the_code_page_of_their_machine(tmp_path, suffix, page):
    name = "地図" if page == "cp932" else "Карта"
    points = lattice(PLACE, MERCATOR)
    text = ozi_text(points) if suffix == "map" else tab_text(points, "10, 157, 7")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "other.png")
    file = tmp_path / f"x.{suffix}"
    file.write_bytes(text.replace("a.jpg", f"{name}.jpg").encode(page))
    with open_source(file) as source:
        assert source.grid.crs == MERCATOR
        assert (source.grid.affine.c, source.grid.affine.f) == pytest.approx((PLACE.c, PLACE.f), abs=0.2)


def test_where_the_name_cannot_be_read_the_only_image_of_the_stem_is_meant(tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "new.png")
    (tmp_path / "new.map").write_text(ozi_text(lattice(PLACE, MERCATOR)).replace("a.jpg", "old.jpg"))
    with open_source(tmp_path / "new.map") as source:
        assert source.grid.crs == MERCATOR
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "new.jpg")
    with pytest.raises(RasterError, match=r"old\.jpg"):
        open_source(tmp_path / "new.map")


@pytest.mark.parametrize("text", ["EPSG:32633", "epsg:32633\n", "+proj=utm +zone=33 +datum=WGS84 +units=m +no_defs"])
def test_a_prj_may_hold_a_code_or_a_proj_string(tmp_path, text):
    (tmp_path / "a.prj").write_text(text)
    assert str(read_crs(tmp_path / "a.png")) == "EPSG:32633"
