"""The log of a run: what was interrupted is taken out, and a full disk says how to go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from terramorph.errors import StorageError
from terramorph.training import runlog
from terramorph.training.runlog import RunLog

GO_ON = r"could not be written \(.*No space left on device.*continue with `resume` .*run\.$"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def write(folder: Path, first: int, last: int, value: float) -> None:
    log = RunLog(folder, first)
    for step in range(first + 1, last + 1):
        log.scalars(step, {"loss": value})
    log.close()


def on_board(folder: Path) -> list[tuple[int, float]]:
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars("loss")]


@pytest.mark.parametrize("start", [0, 2])
def test_a_restart_takes_out_later_steps(run: Path, start: int) -> None:
    write(run, 0, 4, 1.0)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"event": "st')
    write(run, start, 3, 2.0)
    expected = [(step, 1.0 if step <= start else 2.0) for step in (1, 2, 3)]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == expected
    assert on_board(run) == expected


def test_the_log_is_rewritten_whole_or_not_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, 0, 4, 1.0)
    before = (run / "log.jsonl").read_bytes()

    def full(self: Path, text: str, **how: str) -> int:
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match=GO_ON):
        RunLog(run, 2)
    assert (run / "log.jsonl").read_bytes() == before
    assert not list(run.glob(".*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log(run: Path) -> None:
    (run / "log.jsonl").symlink_to("/dev/full")
    log = RunLog(run)
    with pytest.raises(StorageError, match=GO_ON):
        log.event("started")
    with pytest.raises(StorageError, match=GO_ON):
        log.close()


def test_a_full_disk_under_tensorboard_and_the_sheets(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*values: object, **how: object) -> None:
        raise OSError(28, "No space left on device")

    log = RunLog(run)
    with monkeypatch.context() as patch:
        patch.setattr(log._board, "add_scalar", full)
        with pytest.raises(StorageError, match=GO_ON):
            log.scalars(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(runlog.Image.Image, "save", full)
        with pytest.raises(StorageError, match=f"The sample sheet of step 1 {GO_ON}"):
            log.validation(1, {}, np.zeros((8, 24, 3), np.uint8))
    assert not list((run / "samples").iterdir())
    log.close()


def test_a_full_disk_in_the_constructor(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*values: object, **how: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", full)
    with pytest.raises(StorageError, match=GO_ON):
        RunLog(run)


def test_one_value_is_a_dot_and_several_are_a_line(run: Path) -> None:
    log = RunLog(run, 0)
    log.scalars(1, {"loss": 2.0})
    runlog.write_page(run)
    assert (run / "run.html").read_text(encoding="utf-8").count('<path class="dot" d="M50.0 20.0h0.01"/>') == 1
    log.scalars(2, {"loss": 1.0})
    log.close()
    runlog.write_page(run)
    assert '<path d="M0.0 1.0L100.0 39.0h0.01"/>' in (run / "run.html").read_text(encoding="utf-8")
