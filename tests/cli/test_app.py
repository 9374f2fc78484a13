"""Help, versions, errors and exit codes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from terramorph import __version__
from terramorph.cli import app as app_module
from terramorph.cli.app import exit_code, run, sentence, with_options
from terramorph.cli.reporting import StopFlag, StoppedBefore, Terminated, TrainingReporter, stop_after_step
from terramorph.errors import BundleError, ConfigError, RunError, StorageError, warn
from terramorph.processor import native_bf16

from .conftest import Cli

VERBS = (
    "prepare", "train", "evaluate", "translate", "compare", "tune", "info", "recalibrate", "export", "import", "demo",
    "doctor",
)  # fmt: skip


def test_help_and_version_do_not_import_torch() -> None:
    code = (
        "import sys\n"
        "from terramorph.cli.app import main\n"
        f"for words in (['--version'], ['--help'], *([verb, '--help'] for verb in {VERBS!r})):\n"
        "    sys.argv = ['terramorph', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, (words, end.code)\n"
        "    slow = {'torch', 'numpy', 'rasterio', 'skia'} & set(sys.modules)\n"
        "    assert not slow, (words, slow)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Example: terramorph ") == 1 + len(VERBS)
    assert "\x1b" not in done.stdout


def test_without_a_verb_the_help_is_all_that_is_printed(cli: Cli) -> None:
    outcome = cli()
    assert outcome.code == 2
    assert "Usage: terramorph" in outcome.out
    assert outcome.err == ""


def test_a_misspelt_verb_is_one_question_and_one_hint(cli: Cli) -> None:
    assert cli("trnslate").err == (
        "terramorph: No such command 'trnslate'. Did you mean 'translate'? See `terramorph --help`.\n"
    )


def test_info_imports_no_torch(trained: Path) -> None:
    code = (
        "import sys\nfrom terramorph.cli.app import run\n"
        f"assert run(['info', {str(trained)!r}]) == 0\n"
        "slow = {'torch', 'rasterio', 'odc', 'pandas', 'PIL'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_warnings_are_printed_once_and_end_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_twice(*_: object, **__: object) -> int:
        for _ in range(2):
            warn("a.tif has no\nnodata value.")
        return 0

    monkeypatch.setattr(app_module, "app", open_twice)
    outcome = cli("info", "x")
    assert outcome.code == 0
    assert outcome.err == "terramorph: warning: a.tif has no nodata value.\n"


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"terramorph {__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["trian"], 2, "trian"),
        (["translate", "nothing", "", "b.png"], 2, "Argument 3 is empty"),
        (["train"], 2, "DATASET is missing"),
        (["train", "pairs"], 2, "--out RUN is missing"),
        (["train", "pairs", "--out", "run", "--preset", "pix2pox"], 2, "did you mean 'pix2pix'"),
        (["train", "pairs", "--out", "run", "--device", "tpu"], 2, "tpu"),
        (["train", "pairs", "--out", "run", "--set", "loss.l1_wait=1"], 2, "did you mean 'loss.l1_weight'"),
        (["train", "pairs", "--out", "run", "--set", "nonsense"], 2, "key=value"),
        (["train", "pairs", "--out", "run", "--batch-size", "0"], 2, "batch-size"),
        (["train", "no-such-folder", "--out", "run"], 2, "no-such-folder"),
        (["train", "--resume", "no-such-run"], 2, "no-such-run"),
        (["train", "pairs", "--resume", "run", "--out", "other"], 2, "--resume"),
        (["train", "--resume", "run", "--batch-size", "2"], 2, "keeps the settings of the run"),
        (["train", "--resume", "no-such-run", "--max-steps", "2"], 2, "no-such-run"),
        (["train", "pairs", "--out", "run", "--seed", "99999999999999999999"], 2, "9223372036854775807"),
        (["translate", "nothing", "a.png", "b.png", "--seed", "99999999999999999999"], 2, "9223372036854775807"),
        (["demo", "--out", "demo", "--seed", "99999999999999999999"], 2, "9223372036854775807"),
        (["translate", "nothing", "a.png", "b.png", "--precision", "fp16"], 2, "fp16"),
        (["evaluate", "nothing", "pairs", "--out", "out", "--precision", "fp16"], 2, "fp16"),
        (["import", "nothing.pth", "b.safetensors", "--mode", "sketch"], 2, "sketch"),
        (["info", "nothing"], 2, "nothing"),
        (["info"], 2, "bundle"),
        (["evaluate", "nothing", "pairs", "--out", "out"], 2, "nothing"),
        (["translate", "nothing", "a.png", "b.png"], 2, "nothing"),
        (["export", "nothing", "b.txt"], 2, ".onnx"),
        (
            ["export", "nothing", "b.onnx", "--store", "fp16", "--force"],
            2,
            "--store and --force have no effect without",
        ),
        (["export", "nothing", "b.onnx", "--web", "--images", "9"], 2, "--images has no effect without --int8"),
        (["export", "nothing", "b.onnx", "--style", "osm"], 2, "--style has no effect without --deepness"),
        (["draw", "a.onnx", "--one-file", "a.html", "--data", "pairs"], 2, "--data has no effect on files of"),
        (["draw", "nothing", "--one-file", "a.html", "--force"], 2, "--force has no effect without --store"),
        (["draw", "town-sat2map", "--one-file", "a.html"], 2, "needs a model that makes photographs of maps"),
        (["draw", "no.onnx", "--one-file", "a.html"], 2, "There is no file no.onnx"),
        (["models", "list", "sat2map"], 2, "leave sat2map out"),
        (["prepare", "inspect", "pairs", "--tile", "256"], 2, "--tile has no effect on `prepare inspect`"),
        (["import", "nothing.pth", "b.txt"], 2, ".safetensors"),
        (["import", "nothing.pth", "b.safetensors"], 2, "nothing.pth"),
        (["recalibrate", "nothing", "pairs"], 2, "nothing"),
    ],
)
def test_bad_input_is_one_sentence(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli(*words)
    assert outcome.code == code
    assert says in outcome.err
    assert outcome.err.startswith("terramorph: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(cli: Cli, place: int) -> None:
    words = ["info", "nothing"]
    words.insert(place, "--debug")
    outcome = cli(*words)
    assert outcome.code == 2
    assert "Traceback (most recent call last)" in outcome.err
    assert re.search(r"^terramorph: There is no bundle nothing", outcome.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("No."), 2, "No."),
        (BundleError("Two\nlines."), 2, "Two lines."),
        (RunError("It broke."), 1, "It broke."),
        (StorageError("The disk is full."), 1, "The disk is full."),
        (OSError(28, "No space left on device", "x.png"), 1, "x.png: No space left on device; free some space, or set"),
        (OSError(5, "Input/output error", "x.png"), 1, "x.png: Input/output error; run again with --debug"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "Internal error (ZeroDivisionError: division by zero); run again",
        ),
        (MemoryError(), 1, "Out of memory"),
        (KeyboardInterrupt(), 130, "Stopped."),
        (Terminated(), 143, "Stopped."),
        (StoppedBefore("Nothing was trained.", 143), 143, "Nothing was trained."),
    ],
)
def test_error_table(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str) -> None:
    def fail(*words: object, **options: object) -> None:
        raise error

    assert exit_code(error) == code
    assert says in sentence(error)
    monkeypatch.setattr(app_module, "app", fail)
    outcome = cli("info", "x")
    assert outcome.code == code
    assert outcome.err.startswith("terramorph: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text", "told"),
    [
        (
            ["prepare", "out"],
            "`max_nodata` must be 0 to 1, see `split.file`.",
            "--max-nodata must be 0 to 1, see --split-file.",
        ),
        (["prepare", "out"], "use a coarser `scale.resolution`", "use a coarser --resolution"),
        (["translate", "m", "a"], "say `pairs=True` or `pairs=False`", "say --pairs or --no-pairs"),
        (["prepare", "out"], "say `categorical=False`", "say --categorical none"),
        (["translate", "m", "a"], "`max_nodata` and `words` are none of its options", None),
        (["prepare", "out"], "go on with `terramorph train`", None),
        (["nothing"], "`tile` of no verb", None),
    ],
)
def test_parameters_of_the_library_become_options(words: list[str], text: str, told: str | None) -> None:
    assert with_options(text, words) == (told or text)


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m terramorph.cli.app doctor | head -0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_a_module_is_imported_ends_the_program(tmp_path: Path, number: int, code: int) -> None:
    """As while torch is imported, whose C++ cannot pass an exception on: it aborts."""
    (tmp_path / "compiled.py").write_text(
        f"import os, signal\ntry: signal.raise_signal({int(number)})\nexcept BaseException: os.abort()\n"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from terramorph.cli import app\n"
        "app.app = lambda *words, **how: __import__('compiled')\nsys.exit(app.run(['info']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "terramorph: Stopped.\n")


def test_the_first_signal_sets_the_flag_and_the_second_acts() -> None:
    with stop_after_step() as flag:
        assert not flag()
        signal.raise_signal(signal.SIGINT)
        assert flag()
        assert flag.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert not StopFlag()()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_pairs_are_decoded_ends_the_run(
    number: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with stop_after_step("Stopping after this step.") as flag, TrainingReporter(stop=flag) as reporter:
        reporter.decoding(1, 9)
        signal.raise_signal(number)
        with pytest.raises(StoppedBefore, match="nothing was trained") as told:
            reporter.decoding(2, 9)
    assert exit_code(told.value) == code
    assert capfd.readouterr().err == ""  # there is no step to stop after


def test_doctor(cli: Cli) -> None:
    outcome = cli("doctor")
    assert outcome.code == 0
    assert outcome.err == ""
    word = "native" if native_bf16("cpu") else "emulated"
    assert re.search(rf"^  bf16 on the processor +{word}", outcome.out, re.MULTILINE)
    for word in ("python", "torch", "GDAL", "cores", "bf16", "vector units", "CUDA", "onnxruntime", "GiB"):
        assert word in outcome.out
    assert "\x1b" not in outcome.out


def test_no_words_prints_the_help(cli: Cli) -> None:
    outcome = cli()
    assert outcome.code == 2
    assert "Usage" in outcome.out + outcome.err
    assert run(["--version"]) == 0
