"""The texts: lines that one can read in a terminal and in a diff. `make docs` checks their links."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 130
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", TEXTS, ids=[path.relative_to(ROOT).as_posix() for path in TEXTS])
def test_lines_are_short_but_for_tables(path: Path) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    long = [f"{path.name}:{number}" for number, line in lines if len(line) > LONGEST and not line.startswith("|")]
    assert not long, f"Lines of over {LONGEST} characters: {', '.join(long)}; break them."
