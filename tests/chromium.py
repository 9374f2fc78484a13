"""Chromium for tests of pages; where it or playwright is missing they are skipped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")
CHROMIUM = os.environ.get("TERRAMORPH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="browser tests need Chromium")
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
