"""Parts of a sweep on a disk: kept, found again, thrown away with their plan. On object storage: see test_storage."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from terramorph.errors import InputError, StorageError
from terramorph.translate.parts import Parts
from terramorph.translate.tiled import Part

SHAPE, SPREAD = ((3, 4, 4), "float16"), ((1, 4, 4), "float32")
PART = Part(np.arange(48, dtype=np.float16).reshape(3, 4, 4), np.ones((1, 4, 4), np.float32))


def test_parts_are_found_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "map.tif", {"a": (1, 2)})
    parts.save(3, PART)
    parts.save(1_234_567, None)
    for again in (parts, Parts(tmp_path / "map.tif", {"a": (1, 2)}), pickle.loads(pickle.dumps(parts))):
        assert again.done() == {3, 1_234_567}
        got, spread = again.load(3, *SHAPE), again.load(3, *SPREAD, spread=True)
        assert isinstance(got, np.memmap)
        assert isinstance(spread, np.memmap)
        assert np.array_equal(got, PART.pixels)
        assert np.array_equal(spread, PART.spread)
        assert again.load(1_234_567, *SHAPE) is again.load(1_234_567, *SPREAD, spread=True) is None
    assert parts.scratch == parts.folder == tmp_path / ".map.tif.parts"
    with pytest.raises(InputError, match=r"map\.tif\.parts holds 2 parts of .* another a; .* `restart`"):
        Parts(tmp_path / "map.tif", {"a": (1, 3)})
    assert parts.done() == {3, 1_234_567}
    assert Parts(tmp_path / "map.tif", {"a": (1, 3)}, restart=True).done() == set()
    assert Parts(tmp_path / "map.tif", {"a": (1, 4)}).done() == set()  # there was nothing to lose
    parts.remove()
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_missing_or_damaged_is_made_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "map.tif", {})
    header = b"\x93NUMPY\x01\x00v\x00{'descr': ("  # an open bracket: numpy's tokenizer gives up
    others = [_npy(np.zeros(shape, dtype)) for shape, dtype in (((3, 4, 5), "float16"), ((3, 4, 4), "int16"))]
    for damage in (b"", b"\x93NUMPY", b"nonsense" * 20, header.ljust(200), *others):
        parts.save(3, PART)
        (parts.folder / "000003.npy").write_bytes(damage)
        with pytest.raises(InputError, match=r"000003\.npy was damaged .* run the same again"):
            parts.load(3, *SHAPE)
        assert parts.done() == set()
    with pytest.raises(InputError, match=r"000004\.npy was damaged"):
        parts.load(4, *SHAPE)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_one_process_at_a_time_and_its_parts_are_safe(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "map.tif", {"a": 1})
    parts.save(3, PART)
    with parts.locked():
        with pytest.raises(InputError, match=r"Another process is making map\.tif; wait for it"):
            Parts(tmp_path / "map.tif", {"a": 2})
        assert parts.done() == {3}
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        Parts(tmp_path / "file" / "map.tif", {})
