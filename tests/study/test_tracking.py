"""Runs in an MLflow store on the disk: no server, no network."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from terramorph.errors import MissingPackageError, StorageError
from terramorph.study.reporter import MlflowTracking, NoTracking

PARAMETERS = {f"section.key{n}": n for n in range(120)}


def _rows(store: Path, query: str) -> list[tuple[object, ...]]:
    database = sqlite3.connect(store)
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> MlflowTracking:
    """A tracker, at whose making MLflow says nothing of its own: here it is imported for the first time."""
    with redirect_stdout(StringIO()) as said, redirect_stderr(said):
        if importlib.util.find_spec("mlflow") is None:
            pytest.skip("MLflow is not installed")
        tracker = MlflowTracking(tmp_path_factory.mktemp("a study"), "tune")
        with tracker.run("quiet", {"a": 1}) as run:
            run.log_metrics({"b": 1.0}, 1)
    assert said.getvalue() == ""
    return tracker


def test_a_run_arrives_with_parameters_metrics_and_files(tracker: MlflowTracking, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"picture")
    with tracker.run("trial 0", PARAMETERS) as run:
        run.log_metrics({"miou": 0.25, "class iou": 0.5, "lpips": None, "fd": float("nan")}, step=148)
        run.log_artifact(sheet, "samples")

    assert len(_rows(tracker.store, "select * from params")) == 1 + 120
    metrics = _rows(tracker.store, "select key, value, step from metrics where key != 'b' order by key")
    assert metrics == [("class_iou", 0.5, 148), ("miou", 0.25, 148)]
    kept = list((tracker.store.parent / "mlflow-artifacts").rglob("sheet.png"))
    assert [file.read_bytes() for file in kept] == [b"picture"]
    assert kept[0].parent.name == "samples"
    assert ("trial 0", "FINISHED") in _rows(tracker.store, "select name, status from runs")


def test_a_run_of_the_same_name_goes_on_and_one_that_raises_has_failed(tracker: MlflowTracking) -> None:
    for step in (1, 2):
        with tracker.run("trial 'one'", {"a": 1}) as run:
            run.log_metrics({"ssim": step / 10}, step)
    found = _rows(
        tracker.store, "select value from metrics m join runs r using (run_uuid) where r.name like '%one%' order by 1"
    )
    assert found == [(0.1,), (0.2,)]
    with pytest.raises(ValueError, match="boom"), tracker.run("trial 2", {}):
        raise ValueError("boom")
    with tracker.run("trial 3", {}) as run:
        run.fail("It came to nothing.")
    statuses = _rows(tracker.store, "select name, status from runs")
    assert {("trial 2", "FAILED"), ("trial 3", "FAILED")} <= set(statuses)
    assert _rows(tracker.store, "select value from tags where key = 'reason'") == [("It came to nothing.",)]


def test_a_store_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match=r"The MLflow store .*mlflow\.db cannot be used"):
        MlflowTracking(tmp_path, "tune")


def test_without_mlflow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingPackageError, match=r"terramorph\[mlflow\]"):
        MlflowTracking(tmp_path, "tune")


def test_no_tracking_keeps_nothing(tmp_path: Path) -> None:
    with NoTracking().run("trial 0", PARAMETERS) as run:
        run.log_metrics({"miou": 0.5}, 1)
        run.log_artifact(tmp_path / "not there")
        run.fail("It came to nothing.")
    assert list(tmp_path.iterdir()) == []
