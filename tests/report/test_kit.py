"""What all pages are made of: charts that follow the theme, tables that sort, numbers that read well."""

from __future__ import annotations

import re
from importlib.resources import files
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from terramorph.prepare.page.maps import COLOURS
from terramorph.report.charts import BAD, SERIES, chart, chart_svg, colours, css, errorbars, gradient, heat_map
from terramorph.report.numbers import Interval, distance, duration, listed, number, p_value, percent, signed
from terramorph.report.pages import Cell, Table, page_environment, picture_uri


def levels(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def contrast(*colours: np.ndarray) -> float:
    linear = [np.where(one <= 0.04045, one / 12.92, ((one + 0.055) / 1.055) ** 2.4) for one in colours]
    low, high = sorted(float(one @ (0.2126, 0.7152, 0.0722)) for one in linear)
    return (high + 0.05) / (low + 0.05)


def page(body: str, **values: object) -> str:
    whole = '{% extends "base.html.j2" %}{% import "kit.html.j2" as kit %}{% block title %}t{% endblock %}'
    environment = page_environment("terramorph.report")
    return environment.from_string(f"{whole}{{% block main %}}{body}{{% endblock %}}").render(**values)


def test_a_chart_is_one_element_in_the_colours_of_the_page() -> None:
    figure, axes = chart(x="width <px>", y="$share$")
    intervals = [Interval(0.2, 0.1, 0.3), Interval(0.4, 0.3, 0.6), Interval(0.3, None, None)]
    errorbars(axes, [0, 1, 2], intervals, BAD)
    axes.scatter([0, 1], [0.2, 0.4], color=SERIES[1]).set_urls(["tip:0", "tip:1"])
    svg = chart_svg(figure, 'a "chart"', ["one & only", "two"])
    root = ElementTree.fromstring(svg.replace("xlink:", ""))
    assert root.tag == "svg"
    assert root.get("aria-label") == 'a "chart"'
    assert "var(--bad)" in svg
    assert "var(--series-2)" in svg
    assert BAD not in svg
    assert [one.text for one in root.iter("title")] == ["one & only", "two"]
    texts = [one.text for one in root.iter("text")]
    assert "width <px>" in texts
    assert "$share$" in texts
    assert not re.search(r"http|<script|<style|DejaVu|href=.[^#]", svg)


def test_equal_charts_are_equal_and_ids_never_mean_two_things() -> None:
    def drawn(offset: float) -> str:
        figure, axes = chart()
        errorbars(axes, [0, 1], [Interval(offset, None, None), Interval(1, None, None)])
        return str(chart_svg(figure, "c"))

    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9}):
        other = drawn(0)  # of a user with a style
    assert drawn(0) == other
    definitions: dict[str, str] = {}
    for svg in (drawn(0), drawn(5)):
        for one in ElementTree.fromstring(svg.replace("xlink:", "")).iter():
            if (name := one.get("id")) is not None:
                text = ElementTree.tostring(one, encoding="unicode").strip()
                assert definitions.setdefault(name, text) == text
    assert definitions


def test_a_map_of_numbers_has_its_scale() -> None:
    svg = heat_map(np.array([[0.0, 1.0], [np.nan, 3.0]]), "grey levels")
    assert svg.count("data:image/png") == 2
    assert "grey levels" in svg


def test_colours_rise_in_lightness_and_leave_out_what_is_unknown() -> None:
    drawn = colours(np.array([[0.0, 0.25, 0.5, 0.75, 1.0, 7.0, np.nan]]))
    light = drawn.astype(float).mean(axis=0)[0]
    assert drawn.dtype == np.uint8
    assert drawn.shape == (3, 1, 7)
    assert (np.diff(light[:5]) > 0).all()
    assert light[5] == light[4]
    assert drawn[:, 0, 6].tolist() == [128] * 3
    assert gradient().startswith("linear-gradient(")
    assert css(BAD) == "var(--bad)"


def test_a_table_says_texts_numbers_and_nothing() -> None:
    table = Table(
        ["name", "n", "mean"],
        [["<b>", 1234, None], ["c", 5, Cell("0.25", 0.25, "strong", shade=0.5, link="#x", below="low")]],
        "About it.",
        anchors=["first", "second"],
    )
    text = page("{{ kit.table(table) }}", table=table)
    assert "&lt;b&gt;" in text
    assert ">1,234<" in text
    assert 'data-order="0.25"' in text
    assert 'id="second"' in text
    assert 'href="#x">0.25</a>' in text
    assert "<small>low</small>" in text
    assert "About it." in text


def test_a_page_opens_with_a_sentence_pictures_and_figures() -> None:
    picture = picture_uri(np.zeros((3, 4, 4), np.uint8), "PNG")
    opening = '{{ kit.opening("T", "about", "It works.", [("", pictures)], [("PSNR, dB", "21.0", "floor 17")]) }}'
    text = page(opening, pictures=[("input", picture), ("output", picture), ("truth", picture)])
    places = [text.index(part) for part in ("It works.", ">input<", ">output<", ">truth<", ">21.0<", "<dialog")]
    assert places == sorted(places)
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


def test_a_page_must_say_what_it_is() -> None:
    with pytest.raises(Exception, match="title"):
        page_environment("terramorph.report").from_string('{% extends "base.html.j2" %}').render()


def test_numbers_as_people_read_them() -> None:
    assert [number(v) for v in (1234567, 0.012345, -1.5, 12345.6, None)] == [
        "1,234,567",
        "0.0123",
        "−1.5",
        "12,346",
        "–",
    ]
    assert [number(v) for v in (999.4, 999.7)] == ["999", "1,000"]
    shares = [percent(v) for v in (0, 0.0001, 0.5, 0.0312, 0.998, 0.9999, 1, None, -0.02, -0.0002)]
    assert shares == ["0 %", "< 0.1 %", "50 %", "3.1 %", "99.8 %", "99.9 %", "100 %", "–", "−2 %", "0 %"]
    assert [signed(v) for v in (0.314, -0.314)] == ["+0.31", "−0.31"]
    assert [p_value(v) for v in (1e-9, 0.0123, 0.5)] == ["p < 0.001", "p = 0.012", "p = 0.50"]
    assert Interval(0.5, 0.25, 1).said(percent) == "50 % [25 %, 100 %]"
    assert Interval(0.5, None, None).said(percent) == "50 %"
    distances = [distance(v) for v in (0.5, 1.24, 999.7, 2500, 999_999)]
    assert distances == ["50 cm", "1.24 m", "1 km", "2.5 km", "1,000 km"]
    assert [duration(v) for v in (48, 200, 18_120)] == ["48 s", "3 min 20 s", "5 h 02 min"]
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert listed(["a"]) == "a"


def test_figures_on_shaded_cells_can_be_read_in_light_and_in_dark() -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 between text and what is under it."""
    css_text = (files("terramorph.report") / "theme.css").read_text(encoding="utf-8")
    share = float(re.findall(r"var\(--s\) \* ([0-9.]+)", css_text)[0])

    themes = re.findall(r"--card: #(\w{6}); --ink: #(\w{6});.*?--heat: (\d+), (\d+), (\d+);", css_text, re.DOTALL)
    assert len(themes) == 2
    for card, ink, *heat in themes:
        under = share * np.array(heat, float) / 255 + (1 - share) * levels(card)
        assert contrast(under, levels(ink)) >= 4.5


def test_names_of_splits_can_be_read() -> None:
    for split, ink in (("train", "ffffff"), ("val", "3d2a00"), ("test", "ffffff")):
        assert contrast(levels(COLOURS[split][1:]), levels(ink)) >= 4.5, split
