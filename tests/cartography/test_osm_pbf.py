"""A town as OpenStreetMap would hold it, in its own file format, drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import osmium
import shapely
from odc.geo.crs import CRS
from osmium.osm.mutable import Node, Way

from terramorph.cartography import VectorSource, classify, load_style
from terramorph.cartography.detect import is_vector
from terramorph.geo import project_shapes
from terramorph.town import Town

TAGS = {
    "park": {"leisure": "park"},
    "water": {"natural": "water"},
    "building": {"building": "yes"},
    "road": {"highway": "residential"},
    "arterial": {"highway": "primary"},
    "highway": {"highway": "motorway"},
    "rail": {"railway": "rail"},
}


def write_pbf(town: Town, path: Path) -> None:
    """Every line and polygon of a town as a way of nodes in longitude and latitude."""
    writer = osmium.SimpleWriter(str(path))
    shapes = np.array([f.geometry for f in town.features], dtype=object)
    ways, node = [], 0
    moved = project_shapes(shapes, town.grid.crs, CRS("EPSG:4326"))
    for feature, shape in zip(town.features, moved, strict=True):
        for part in shapely.get_parts(shape):
            ring = part.geom_type == "Polygon"
            points = shapely.get_coordinates(part.exterior if ring else part)
            refs = []
            for x, y in points[:-1] if ring else points:
                node += 1
                writer.add_node(Node(id=node, location=(float(x), float(y)), version=1))
                refs.append(node)
            ways.append((refs + refs[:1] if ring else refs, TAGS[feature.kind]))
    for number, (refs, tags) in enumerate(ways, start=1):
        writer.add_way(Way(id=number, nodes=refs, tags=tags, version=1))
    writer.close()


def test_a_pbf_is_drawn_as_the_town_it_was_made_of(small_town: Town, tmp_path: Path) -> None:
    path = tmp_path / "town.osm.pbf"
    write_pbf(small_town, path)
    assert is_vector(path)
    with VectorSource(path, load_style("classic")) as source:
        assert source.licence is not None
        assert "OpenStreetMap" in source.licence
        drawn = source.read(small_town.grid)
    expected = small_town.map()
    agree = classify(drawn.pixels) == classify(expected.pixels)
    # Streets get the usual width of their class, which is not the town's.
    assert agree.mean() > 0.88
    for kind in (1, 5, 6):  # buildings, parks and water, where no wider street covers them
        there = classify(expected.pixels) == kind
        assert agree[there].mean() > 0.7
