"""`terramorph`: the verbs, and the table from errors to exit codes.

Nothing here imports torch, so that `terramorph --help` is fast. Each verb imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from terramorph._version import __version__
from terramorph.cli.choices import option
from terramorph.cli.console import printable, warn
from terramorph.cli.reporting import StoppedBefore, Terminated, signals_as_exceptions
from terramorph.errors import InputError, InputWarning, TerramorphError
from terramorph.redaction import redact_text

BAD_INPUT, FAILURE, INTERRUPTED, TERMINATED = 2, 1, 130, 143
_FULL = errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)
_AGAIN = "run again with --debug for the traceback"
_PARAMETER = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)(=True|=False)?`")

_VERBS = (
    *("prepare", "train", "evaluate", "tune", "compare", "translate", "serve", "draw", "qgis"),
    *("info", "models", "recalibrate", "export", "import_", "demo", "doctor"),
)
"""Modules of the verbs, in the order of the help."""

app = typer.Typer(
    name="terramorph",
    help="Translate between satellite or aerial imagery and maps, both ways.",
    epilog="Example: terramorph demo --out demo-out",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name in _VERBS:
    _verb = import_module(f"terramorph.cli.{_name}")
    app.command(_verb.NAME, epilog=_verb.EXAMPLE)(_verb.run)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"terramorph {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, option("Print the version and exit.", "--version", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, option("Show the traceback of an error; allowed anywhere in the command line.", "--debug")
    ] = False,
) -> None:
    """Translate between satellite or aerial imagery and maps, both ways."""


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, Terminated):
        return TERMINATED
    if isinstance(error, StoppedBefore):
        return error.exit_code
    if isinstance(error, InputError) or _is_usage(error):
        return BAD_INPUT
    return FAILURE


def sentence(error: BaseException) -> str:
    """Return the message of an error in one line, without a traceback."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        return "Stopped."
    if _is_usage(error):
        context = getattr(error, "ctx", None)
        hint = f" See `{context.command_path} --help`." if context is not None else ""
        what = _one_line(error.format_message()).replace(": Value error, ", ": ")  # type: ignore[attr-defined]
        if not what:  # the help was printed in place of a message
            return ""
        return (what if what.endswith("?") else what.rstrip(".") + ".") + hint
    if isinstance(error, typer.Abort):
        return "Stopped."
    if isinstance(error, TerramorphError | StoppedBefore):
        return _one_line(str(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"Out of memory; use a smaller --batch-size or smaller images, or {_AGAIN}."
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _FULL:
            return f"{where}{error.strerror}; free some space, or set TMPDIR to a folder with room for temporary files."
        return f"{where}{error.strerror}; {_AGAIN}."
    detail = _one_line(str(error))[:300].rstrip(".")
    return f"Internal error ({type(error).__name__}{': ' + detail if detail else ''}); {_AGAIN}, and report it."


def with_options(text: str, words: Sequence[str]) -> str:
    """Return a message with its parameters in backticks (`max_nodata`, `pairs=False`) as options of the verb in
    `words`."""
    if not _PARAMETER.search(text):
        return text
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    verb = next((commands[word] for word in words if word in commands), None)
    named = {} if verb is None else {p.name: p for p in verb.params if p.opts[0].startswith("-")}

    def option(match: re.Match[str]) -> str:
        known = named.get(match[1].replace(".", "_")) or named.get(match[1].rpartition(".")[2])
        if known is None:
            return match[0]
        word = str(max(known.opts, key=len))
        if match[2] == "=False":
            return str(known.secondary_opts[0]) if known.secondary_opts else f"{word} none"
        return word

    return _PARAMETER.sub(option, text)


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name); return its exit code."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    # Training silences these messages of Fabric unless a level was set.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.DEBUG if debug else logging.NOTSET)
    words = [word for i, word in enumerate(words) if i >= end or word != "--debug"]
    try:
        if "" in words:  # a path would mean the current folder
            raise InputError(f"Argument {words.index('') + 1} is empty; give a value, or leave the argument out.")
        with signals_as_exceptions(), _warnings_printed(words):
            code = app(words, prog_name="terramorph", standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader of the output has gone (`terramorph info ... | head -1`): there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except BaseException as error:
        if isinstance(error, SystemExit | GeneratorExit):
            raise
        if debug:
            print(redact_text(traceback.format_exc()), file=sys.stderr, end="")
        told = "" if getattr(error, "already_told", False) else sentence(error)
        if told:
            print(f"terramorph: {with_options(redact_text(told), words)}", file=sys.stderr)
        return exit_code(error)


@contextmanager
def _warnings_printed(words: Sequence[str]) -> Iterator[None]:
    """Print each `InputWarning` once, as one line on standard error."""
    told: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def print_once(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, InputWarning):
                show(message, category, *where, **more)
            elif str(message) not in told:
                told.add(str(message))
                warn(with_options(_one_line(str(message)), words))

        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = print_once
        yield


def main() -> NoReturn:
    """Run the program `terramorph`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the encoding of a console or file in Windows may lack characters
            stream.reconfigure(errors="replace")
    # Python's cycle collector would traverse all objects of torch many times at its import, and at the end.
    gc.set_threshold(20_000)
    code = run(sys.argv[1:])
    gc.freeze()
    sys.exit(code)


def _is_usage(error: BaseException) -> bool:
    # Typer's usage errors have no public base class in all its releases; all of them format their own message.
    return hasattr(error, "format_message") and getattr(error, "exit_code", None) == BAD_INPUT


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


if __name__ == "__main__":
    main()
