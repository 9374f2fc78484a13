"""Sweeps on a cluster: the same bytes as here with as many threads, whatever happens to workers and scheduler."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geom import box
from PIL import Image

from terramorph.cli.app import run
from terramorph.errors import ConfigError, InputError, MissingPackageError, RunError
from terramorph.geo import Grid
from terramorph.raster import Raster, read_image, write_image
from terramorph.sources import open_source
from terramorph.translate import Model, load
from terramorph.translate import cluster as module
from terramorph.translate.cluster import Cluster, DaskEngine
from terramorph.translate.engine import Job, Stages, identity
from terramorph.translate.parts import Parts
from terramorph.translate.plan import plan
from terramorph.translate.tiled import Part
from terramorph.translate.worker import Task, open_task

from ..processes import free_port, nobody, start_python
from .conftest import make_bundle

UTM = CRS("EPSG:32633")
OPTIONS = {"window": 128, "overlap": 32}

# Sockets are closed by the collector where a process at their other end was killed: here, and not in a later test.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As each of the workers has: oneDNN adds in another order with another number of threads."""
    torch.set_num_threads(1)
    yield
    gc.collect()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three workers here, used by all tests: one that was killed is started again."""
    with Cluster(workers=3) as cluster:
        yield cluster
    gc.collect()


@pytest.fixture
def ortho(picture, tmp_path: Path) -> Path:
    """300 x 420 px at 1 m, with a hole of no data: 24 windows."""
    mask = np.ones((300, 420), np.bool_)
    mask[40:150, 30:200] = False
    grid = Grid(300, 420, Affine(1.0, 0.0, 4e5, 0.0, -1.0, 5.8e6), UTM)
    write_image(Raster.from_pixels(picture(300, 420), grid, mask), tmp_path / "ortho.tif")
    return tmp_path / "ortho.tif"


@pytest.fixture
def model(tmp_path: Path) -> Callable[[], Model]:
    """Opens a bundle, here and on a worker."""
    path = make_bundle(header={"mode": "paper"}).save(tmp_path / "model.safetensors")
    return partial(load, path, precision="fp32", mode="raster")


def bytes_here(model: Callable[[], Model], source: Path) -> bytes:
    """What one process makes."""
    (made,) = model().translate_to(source, source.parent / "here.tif", **OPTIONS)
    return made.read_bytes()


def test_parts_and_output_are_those_of_one_process(cluster: Cluster, model, ortho: Path, tmp_path: Path) -> None:
    model = partial(load, tmp_path / "model.safetensors", precision="fp32", mode="paper")
    engine = DaskEngine(cluster, model, partial(open_source, ortho))
    made = {}
    for name, how in (("here", None), ("there", engine)):
        output, spread = tmp_path / name / "map.tif", tmp_path / name / "std.tif"
        output.parent.mkdir()
        area = box(400050, 5799700, 400420, 5799950, UTM)
        options = {"window": 128, "overlap": 32, "samples": 2, "uncertainty": spread, "area": area}
        parts: dict[str, bytes] = {}

        def look(step: str, done: int, total: int, folder=output.parent / ".map.tif.parts", parts=parts) -> None:
            if step == "joining" and not parts:
                parts.update((file.name, file.read_bytes()) for file in folder.iterdir())

        stages = Stages()
        model().translate_to(ortho, output, **options, progress=look, engine=how, stages=stages)
        assert min(stages.read_s, stages.compute_s, stages.write_s, stages.join_s, stages.finish_s) > 0
        made[name] = parts, output.read_bytes(), spread.read_bytes()
    assert len(made["here"][0]) > 20
    assert any(name.endswith(".none") for name in made["here"][0])
    assert made["here"] == made["there"]


def test_rows_of_what_is_decoded_from_the_top(cluster: Cluster, model, picture, tmp_path: Path) -> None:
    path = tmp_path / "ortho.png"
    Image.fromarray(picture(300, 420).transpose(1, 2, 0)).save(path)
    engine = DaskEngine(cluster, model, partial(open_source, path))
    (there,) = model().translate_to(path, tmp_path / "there.tif", **OPTIONS, engine=engine)
    assert there.read_bytes() == bytes_here(model, path)


@pytest.mark.kills
def test_a_worker_killed_in_the_middle(cluster: Cluster, model, ortho: Path, tmp_path: Path) -> None:
    workers = list(cluster.client.run(os.getpid).values())
    told = []

    def kill(step: str, done: int, total: int) -> None:
        if step == "translating" and done == 4:
            os.kill(workers[0], signal.SIGKILL)
        told.append((step, done, total))

    engine = DaskEngine(cluster, model, partial(open_source, ortho))
    (there,) = model().translate_to(ortho, tmp_path / "there.tif", **OPTIONS, progress=kill, engine=engine)
    assert [done for step, done, _ in told if step == "translating"] == list(range(25))
    assert there.read_bytes() == bytes_here(model, ortho)


def test_a_window_that_hangs_is_done_by_another_worker(cluster: Cluster, model, ortho: Path, tmp_path: Path) -> None:
    taken, release = tmp_path / "taken", tmp_path / "release"

    def hanging() -> Model:
        translator = model()
        predict = translator.predict

        def once(rasters: list[Raster], *how: Any) -> np.ndarray:
            try:
                taken.touch(exist_ok=False)
            except FileExistsError:
                return predict(rasters, *how)
            while not release.exists():
                time.sleep(0.05)
            return predict(rasters, *how)

        translator.predict = once  # type: ignore[method-assign]
        return translator

    engine = DaskEngine(cluster, hanging, partial(open_source, ortho))
    (there,) = model().translate_to(ortho, tmp_path / "there.tif", **OPTIONS, engine=engine)
    release.touch()
    assert taken.exists()
    assert there.read_bytes() == bytes_here(model, ortho)


def test_a_window_that_cannot_be_read_ends_it_and_the_others_stay(
    cluster: Cluster, model, ortho: Path, tmp_path: Path
) -> None:
    whole = ortho.read_bytes()
    ortho.write_bytes(whole[: len(whole) * 97 // 100])  # the last block: by then others are done
    engine = DaskEngine(cluster, model, partial(open_source, ortho))
    with pytest.raises(InputError, match=r"ortho\.tif cannot be read"):
        model().translate_to(ortho, tmp_path / "there.tif", **OPTIONS, engine=engine)
    assert list((tmp_path / ".there.tif.parts").glob("*.n*"))
    ortho.write_bytes(whole)
    with pytest.raises(InputError, match="another source"):
        model().translate_to(ortho, tmp_path / "there.tif", **OPTIONS, engine=engine)
    (there,) = model().translate_to(ortho, tmp_path / "there.tif", **OPTIONS, restart=True, engine=engine)
    assert there.read_bytes() == bytes_here(model, ortho)


def test_workers_that_see_other_things_say_so(cluster: Cluster, model, ortho: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "model.safetensors"
    make_bundle(gain=0.3).save(other)
    opened = partial(open_source, ortho)
    translator = model()
    for engine, sentence in (
        (DaskEngine(cluster, partial(load, other, precision="fp32"), opened), "another content of the bundle"),
        (
            DaskEngine(cluster, model, partial(open_source, tmp_path / "not.tif")),
            r"On the worker tcp.*not\.tif does not",
        ),
        (DaskEngine(cluster, partial(load, tmp_path / "not.safetensors"), opened), "There is no bundle"),
        (DaskEngine(cluster, model, partial(_same, open_source(ortho))), "must be functions that pickle can send"),
    ):
        with pytest.raises(InputError, match=sentence):
            translator.translate_to(ortho, tmp_path / "no.tif", **OPTIONS, engine=engine)
    assert DaskEngine(cluster, model, opened).backend == model().backend.name


class Unseen(Parts):
    """Parts in a folder that is another one on each machine."""

    def done(self) -> set[int]:
        return set()

    def save(self, number: int, part: Part | None) -> None:
        pass


def test_parts_that_are_written_elsewhere_are_missed(
    cluster: Cluster, model, ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(sys.modules["terramorph.translate.writing"], "Parts", Unseen)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    engine = DaskEngine(cluster, model, partial(open_source, ortho))
    with pytest.raises(InputError, match=r"parts of worker tcp.*\.map\.tif\.parts are not seen"):
        model().translate_to(ortho, tmp_path / "map.tif", **OPTIONS, engine=engine)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_worker_without_the_folder_says_so(model, ortho: Path, tmp_path: Path) -> None:
    translator, source = model(), open_source(ortho)
    parts = Parts(tmp_path / "map.tif", identity(translator, source.fingerprint(), "torch cuda bfloat16"))
    parts.remove()
    job = Job(plan(translator, source), source, None, parts)
    task = Task(model, partial(open_source, ortho), job, None)
    with pytest.raises(InputError, match=r"The worker tcp://a:1 does not see the folder .*\.map\.tif\.parts"):
        open_task(task, "tcp://a:1")
    (tmp_path / ".map.tif.parts").mkdir()
    with pytest.raises(InputError, match=r"another backend than this translation: torch cpu float32, not torch cuda"):
        open_task(task, "tcp://a:1")


@contextmanager
def dask(kind: str, *words: object) -> Iterator[BaseProcess]:
    """A scheduler or worker in a process of its own."""
    code = f"import runpy\nrunpy.run_module('distributed.cli.dask_{kind}', run_name='__main__')"
    process = start_python(code, *words, "--no-dashboard")
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.kills
def test_a_scheduler_that_is_restarted(model, ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT", 240.0)  # the scheduler takes its time to start
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler_words = ("scheduler", "--host", "127.0.0.1", "--port", port)
    worker_words = ("worker", address, "--no-nanny", "--nthreads", 1, "--local-directory", tmp_path / "dask")
    with ExitStack() as started:
        first = started.enter_context(dask(*scheduler_words))
        with Cluster(address) as cluster:
            engine = DaskEngine(cluster, model, partial(open_source, ortho))
            with monkeypatch.context() as hasty:
                hasty.setattr(module, "PATIENCE", 0.1)
                with pytest.raises(RunError, match=f"has had no worker .* `dask worker {address}`"):
                    model().translate_to(ortho, tmp_path / "there.tif", **OPTIONS, engine=engine)
            workers = [started.enter_context(dask(*worker_words))]
            counts = []

            def restart(step: str, done: int, total: int) -> None:
                counts.append(done)
                if step == "translating" and done == 5 and len(workers) == 1:
                    first.kill()
                    first.join()
                    started.enter_context(dask(*scheduler_words))
                    workers.append(started.enter_context(dask(*worker_words)))

            (there,) = model().translate_to(ortho, tmp_path / "there.tif", **OPTIONS, progress=restart, engine=engine)
            assert len(workers) == 2
            monkeypatch.setattr(module, "PATIENCE", 0.1)
            monkeypatch.setattr(module, "_CONNECT", 0.5)
        assert there.read_bytes() == bytes_here(model, ortho)
    with pytest.raises(InputError, match=rf"The scheduler {address} does not answer; start one"):
        _ = Cluster(address).__enter__().client


def test_a_lost_scheduler_is_given_up_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    monkeypatch.setattr(module, "_CONNECT", 0.3)
    with nobody() as host, pytest.raises(RunError, match=r"was lost for .* s; start it and run the same command again"):
        Cluster(scheduler=f"tcp://{host}").reconnect()


def test_what_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, sentence in (
        ({}, "needs `scheduler`, an address, or `workers`"),
        ({"scheduler": "tcp://a:1", "workers": 1}, "give `scheduler` or `workers`, not both"),
        ({"workers": 0}, "`workers` must be >= 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Cluster(**given)
    with pytest.raises(InputError, match=r"The scheduler nonsense://.* does not answer"):
        _ = Cluster("nonsense://x").__enter__().client
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"terramorph\[cluster\]"):
        Cluster(workers=1).__enter__()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ortho.tif", "images"], "Workers need an output of one raster"),
        ([".", "map.png"], "Workers need an output of one raster"),
        (["ortho.tif", "there.tif"], "there.tif would be replaced"),
    ],
)
def test_what_is_refused_starts_no_worker(
    model, ortho: Path, tmp_path: Path, capfd, monkeypatch, words: list[str], sentence: str
) -> None:
    monkeypatch.setattr(Cluster, "_start", lambda *given: pytest.fail("workers were started"))
    monkeypatch.chdir(tmp_path)
    Path("there.tif").touch()
    assert run(["translate", "model.safetensors", *words, "--workers", "1", "--any-resolution"]) == 2
    assert sentence in capfd.readouterr().err


@pytest.mark.kills
def test_the_command_line_stops_and_goes_on(model, ortho: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    words = ["translate", "model.safetensors", "ortho.tif", "map.tif", "--mode", "raster", "--precision", "fp32"]
    big = Image.fromarray(np.tile(read_image(ortho).pixels.transpose(1, 2, 0), (12, 4, 1)))
    big.save(tmp_path / "ortho.tif")
    started = subprocess.Popen(
        [sys.executable, "-m", "terramorph.cli.app", *words, "--workers", "1"],
        cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    parts = tmp_path / ".map.tif.parts"
    while started.poll() is None and not list(parts.glob("*.npy")):
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does
    _, err = started.communicate()  # until the workers have closed it too
    sentence = "terramorph: Stopped: map.tif is not finished; run the same command again to resume.\n"
    assert (started.returncode, err) == (130, sentence)
    assert list(parts.glob("*.npy"))
    monkeypatch.chdir(tmp_path)
    assert run(words) == 0
    for more, sentence in (
        (["--workers", "0"], "--workers must be >= 1, got 0"),
        (["--workers", "1", "--scheduler", "tcp://a:1"], "give --scheduler or --workers, not both"),
    ):
        assert run([*words, *more]) == 2
        assert sentence in capfd.readouterr().err


def _same(value: object) -> object:
    return value
