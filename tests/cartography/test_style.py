from __future__ import annotations

import numpy as np
import pytest

from terramorph.cartography import PALETTE, classic, load_style, load_table
from terramorph.cartography.render import drawing_margin
from terramorph.cartography.table import KINDS
from terramorph.errors import ConfigError
from terramorph.geo.mercator import zoom_of


def written(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return path


def test_classic_is_its_file_and_stays_within_the_palette():
    assert classic() == load_style("classic")
    palette = {tuple(c) for c in PALETTE.tolist()}
    assert {r.kind for r in classic().rules if r.fill not in palette} == {"rail"}
    assert all(r.casing is None for r in classic().rules)


def test_classes_has_colours_of_the_palette_only():
    style = load_style("classes")
    assert not style.antialias
    assert {r.fill for r in style.rules} | {style.background} <= {tuple(c) for c in PALETTE.tolist()}
    assert "rail" not in {rule.kind for rule in style.rules}


@pytest.mark.parametrize("name", ["classic", "osm", "classes"])
def test_a_style_draws_roads_in_the_order_of_their_weight(name):
    order = [r.kind for r in load_style(name).rules if r.geometry != "area"]
    assert [order.index(k) for k in ("road", "secondary", "arterial", "highway")] == sorted(
        order.index(k) for k in ("road", "secondary", "arterial", "highway")
    )


def test_an_own_style_is_read_in_full(tmp_path):
    text = """
        name = "night"
        background = "#000102"
        antialias = false
        [[rule]]
        kinds = ["road", "path"]
        fill = "#FFffFe"
        geometry = "line"
        width_px = { 18 = 12.0, 10 = 1.0 }
        casing = "#ff0000"
        min_casing_px = 1
    """
    style = load_style(written(tmp_path, text))
    assert (style.name, style.background, style.antialias) == ("night", (0, 1, 2), False)
    assert [r.kind for r in style.rules] == ["road", "path"]
    rule = style.rules[0]
    assert (rule.fill, rule.casing, rule.min_casing_px) == ((255, 255, 254), (255, 0, 0), 1.0)
    assert rule.width_px == ((10.0, 1.0), (18.0, 12.0))


RULE = '[[rule]]\nkinds = ["road"]\nfill = "#ffffff"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('background = "#000000"\nbackgruond = 1', "did you mean 'background'"),
        ('background = "#000000"\n[[rule]]\nkinds = ["raod"]\nfill = "#ffffff"', "did you mean 'road'"),
        ('background = "#00"\n' + RULE, "#rrggbb"),
        ('background = "#000000"\n' + RULE + "width_m = -1", "width_m"),
        ('background = "#000000"\n' + RULE + "width_m = 1\nwidth_px = 2", "one of them"),
        ('background = "#000000"\n' + RULE + "width_px = { wide = 2 }", "zoom"),
        ('background = "#000000"\n' + RULE + 'geometry = "lines"', "line"),
        ('background = "#000000"\n' + RULE + "width = 3", "width_m"),
        ('background = "#000000"', "rule is missing"),
        ("background = ", "TOML"),
    ],
)
def test_a_wrong_style_is_refused_with_a_hint(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_style(written(tmp_path, text))


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'classic'"):
        load_style("clasic")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_style("does-not-exist.toml")


@pytest.mark.parametrize("name", ["osm", "protomaps", "plain"])
def test_tables_name_known_kinds_that_styles_draw(name):
    table = load_table(name)
    used = {k for m in table.match for k in (*m.kinds.values(), *([m.kind] if m.kind else []))}
    assert used <= set(KINDS)
    assert {"building", "road", "water"} <= used
    assert used - {"coastline"} <= {r.kind for r in load_style("osm").rules}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[match]]\nkeys = ["a"]\nkind = "road"', "either"),
        ('[[match]]\nkind = "rood"', "did you mean 'road'"),
        ('[[match]]\nkey = "a"', "did you mean 'match.keys'"),
        ('[[match]]\nkind = "road"\nlayers = "roads"', "match.layers cannot be 'roads'"),
        ("", "match is missing"),
    ],
)
def test_a_wrong_table_is_refused_with_a_hint(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_table(written(tmp_path, text))


def test_a_table_assigns_the_first_match_and_leaves_out_tunnels():
    columns = {
        "highway": ["primary", "primary", None, "nonsense"],
        "tunnel": [None, "yes", None, None],
        "building": [None, None, "yes", "no"],
    }
    lines, widths = load_table("osm").assign("lines", columns, np.zeros(4, bool))
    assert [KINDS[k] if k >= 0 else None for k in lines] == ["arterial", None, None, None]
    assert widths[0] == 14.0
    areas, _ = load_table("osm").assign("multipolygons", columns, np.ones(4, bool))
    assert [KINDS[k] if k >= 0 else None for k in areas] == [None, None, "building", None]


def test_widths_in_pixels_follow_the_zoom(tmp_path):
    assert zoom_of(156543.03392804097 / 2**14) == pytest.approx(14)
    style = load_style(written(tmp_path, 'background = "#000000"\n' + RULE + "width_px = { 10 = 2.0, 12 = 6.0 }"))
    margins = [drawing_margin(style, 156543.03392804097 / 2**zoom) for zoom in (8, 10, 11, 12, 15)]
    assert margins == pytest.approx([3, 3, 4, 5, 5])
