"""Classes and functions from outside the package, by name."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from terramorph.errors import ConfigError
from terramorph.imports import module_of, name_of, resolve


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `outside_parts` that can be imported, with a module that leaves a trace where it runs."""
    package = tmp_path / "outside_parts"
    package.mkdir()
    (package / "__init__.py").touch()
    trace = tmp_path / "ran"
    (package / "mine.py").write_text(
        f"open({str(trace)!r}, 'w').close()\nclass Mine:\n    class Inner: ...\ndef half(x): return x / 2\n"
    )
    (package / "broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield trace
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside_parts"]:
        del sys.modules[name]


@pytest.mark.parametrize("allowed", [["outside_parts.mine"], ["outside_parts"], "outside_parts.mine"])
def test_what_was_allowed_is_imported(outside: Path, allowed: list[str]) -> None:
    assert resolve("outside_parts.mine:half", allowed)(8) == 4
    inner = resolve("outside_parts.mine:Mine.Inner", allowed)
    assert resolve(name_of(inner), allowed) is inner
    assert module_of(name_of(inner)) == "outside_parts.mine"


@pytest.mark.parametrize("allowed", [[], ["outside_parts.min"], ["mine"], ["outside_parts.mine.deeper"], ["os"]])
def test_no_code_runs_that_was_not_allowed(outside: Path, allowed: list[str]) -> None:
    with pytest.raises(ConfigError, match="allow the module outside_parts"):
        resolve("outside_parts.mine:Mine", allowed)
    assert not outside.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outside_parts.mine", "package.module:Name"),
        ("outside_parts.mine:", "package.module:Name"),
        (":Mine", "package.module:Name"),
        ("../outside:Mine", "package.module:Name"),
        ("outside_parts.mine:Theirs", "holds no Theirs"),
        ("outside_parts.broken:Mine", "no_such_module_anywhere"),
        ("outside_parts.absent:Mine", "outside_parts.absent"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(outside: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(name, ["outside_parts"])


def test_a_class_inside_a_function_has_no_name_to_find_it_by() -> None:
    class Local: ...

    with pytest.raises(ConfigError, match="top of a module"):
        name_of(Local)
