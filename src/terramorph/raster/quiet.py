"""Silence of two rasterio warnings that are no faults here: missing georeference, several masks."""

from __future__ import annotations

import warnings

from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning


def quiet() -> None:
    """Silence them, also where a caller has made errors of all warnings. Asked for each time, for filters change."""
    for remark in (NotGeoreferencedWarning, NodataShadowWarning):
        warnings.simplefilter("ignore", remark)
