"""Chromium for tests of pages, and waiting for these; where it or playwright is missing they are skipped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")
CHROMIUM = os.environ.get("TERRAMORPH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="browser tests need Chromium")
PATIENCE = 240_000
"""Milliseconds after which a test fails that waits for a page; a machine may be slow."""
if CHROMIUM is not None:
    playwright.expect.set_options(timeout=PATIENCE)
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"


def patient(browser: Any) -> Any:
    """A browser whose pages are waited for, however slow the machine is."""
    new_context = browser.new_context

    def made(**how: Any) -> Any:
        context = new_context(**how)
        context.set_default_timeout(PATIENCE)
        return context

    browser.new_context, browser.new_page = made, lambda **how: made(**how).new_page()
    return browser


def rest(page: Any, milliseconds: int) -> None:
    """Waits by the clock of the page and for frames of it: what it does after so many milliseconds has been done."""
    page.evaluate(
        """async (milliseconds) => {
      await new Promise((done) => setTimeout(done, milliseconds));
      for (let i = 0; i < 6; i++) await new Promise(requestAnimationFrame);
    }""",
        milliseconds,
    )
