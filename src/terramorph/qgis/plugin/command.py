"""The program terramorph as a process: finding, starting and reading it."""

import json
import os
from pathlib import Path

from qgis.core import QgsSettings
from qgis.PyQt.QtCore import QProcess, QProcessEnvironment, QStandardPaths

COMMAND, SERVER = "terramorph/command", "terramorph/server"
_OURS = ("PYTHONHOME", "PYTHONPATH", "PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
"""Variables that QGIS sets for its own Python and libraries, which are not the program's."""
_OWN, _WARNING = "terramorph: ", "warning: "
"""Prefixes of the program's own sentences."""
_STEP = 100
"""Milliseconds between two looks at a running program."""
_GRACE = 10_000
"""Milliseconds that a program has to end once it was told to."""


class CommandError(Exception):
    """The program could not be run, or failed; in one sentence."""


def saved(key, default=""):
    """Return a setting of the user's profile."""
    return QgsSettings().value(key, default) or default


def save(key, value):
    """Write a setting of the user's profile."""
    QgsSettings().setValue(key, value)


def program():
    """Return the words that a command line of terramorph begins with: the program, or a Python that has the package.

    Raises:
        CommandError: If none is chosen and none is on the PATH.
    """
    chosen = saved(COMMAND) or QStandardPaths.findExecutable("terramorph")
    if not chosen:
        raise CommandError(
            "The program terramorph is not found; choose it, or a Python that has it, in the panel terramorph "
            "(pip install 'terramorph[serve]')."
        )
    if Path(chosen).stem.lower().startswith("python"):
        return [chosen, "-m", "terramorph"]
    return [chosen]


def new_process(words, parent=None):
    """Return a QProcess of a command line of terramorph, not started yet.

    Args:
        words: After the program; each is passed as it is, with its spaces.
        parent: Of the process.
    """
    first, *rest = [*program(), *words]
    environment = QProcessEnvironment.systemEnvironment()
    for name in _OURS:
        environment.remove(name)
    environment.insert("PYTHONUNBUFFERED", "1")
    environment.insert("PYTHONIOENCODING", "utf-8")
    environment.insert("NO_COLOR", "1")
    process = QProcess(parent)
    process.setProcessEnvironment(environment)
    process.setProgram(first)
    process.setArguments(rest)
    return process


def end(process):
    """End a process: ask it to, then kill it."""
    if process.state() == QProcess.ProcessState.NotRunning:
        return
    # On Windows a program without a window cannot be asked. What it has made stays, and it goes on from there.
    if os.name != "nt":
        process.terminate()
    if os.name == "nt" or not process.waitForFinished(_GRACE):
        process.kill()
        process.waitForFinished(_GRACE)


class Lines:
    """Splits bytes that arrive in pieces into lines."""

    def __init__(self):
        self._rest = b""

    def add(self, data):
        """Add bytes; return the lines that are complete."""
        *whole, self._rest = (self._rest + bytes(data)).split(b"\n")
        return [line.decode("utf-8", "replace").rstrip("\r") for line in whole]

    def last(self):
        """Return what is left at the end."""
        return [line for line in self.add(b"\n") if line]


class Told:
    """The program's standard error: warnings, and at the end a sentence.

    Attributes:
        sentence: Why it failed; empty if it did not say.
    """

    def __init__(self):
        self.sentence = ""
        self._own = False

    def add(self, line):
        """Add a line; return its text if it is a warning, otherwise None."""
        own = line.startswith(_OWN)
        text = line[len(_OWN) :] if own else line
        if own and text.startswith(_WARNING):
            return text[len(_WARNING) :]
        if own or not (self._own or line.startswith(("{", " "))):  # what is in braces is a server's log
            self.sentence, self._own = text.strip() or self.sentence, own or self._own
        return None


def run(words, feedback):
    """Run a command line with --progress json until it ends.

    Args:
        words: After the program.
        feedback: A QgsProcessingFeedback: is told, and cancels.

    Returns:
        Whether it ended well; False if it was cancelled.

    Raises:
        CommandError: The program's own sentence, if it failed.
    """
    process, out, errors, told = new_process(words), Lines(), Lines(), Told()
    feedback.pushCommandInfo(" ".join(f'"{word}"' if " " in word else word for word in [*program(), *words]))

    def read(final=False):
        lines = out.add(process.readAllStandardOutput())
        others = errors.add(process.readAllStandardError())
        if final:
            lines, others = [*lines, *out.last()], [*others, *errors.last()]
        for line in lines:
            _show(line, feedback)
        for line in others:
            warning = told.add(line)
            if warning is not None:
                feedback.pushWarning(warning)

    process.start()
    if not process.waitForStarted():
        raise CommandError(f"{program()[0]} cannot be started ({process.errorString()}).")
    process.closeWriteChannel()
    while not process.waitForFinished(_STEP) and process.state() != QProcess.ProcessState.NotRunning:
        read()
        if feedback.isCanceled():
            end(process)
            return False
    read(final=True)
    if process.exitStatus() != QProcess.ExitStatus.NormalExit or process.exitCode() != 0:
        raise CommandError(told.sentence or f"terramorph ended with code {process.exitCode()} and said nothing.")
    return True


def _show(line, feedback):
    """Show a line of standard output: progress, or text."""
    try:
        values = json.loads(line)
        share = 100 * values["done"] / values["total"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        if line and not line.startswith("{"):
            feedback.pushInfo(line)
        return
    feedback.setProgressText(f"{values.get('step', '')}: {values['done']} of {values['total']}")
    feedback.setProgress(share)
