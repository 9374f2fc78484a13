"""What of QGIS and Qt the plug-in uses, as stubs that record calls. A name that is not in `API` is an AttributeError.

`API` is held against a real QGIS by test_qgis.py, where there is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

API: dict[str, dict[str, str]] = {
    "qgis.core": {
        "Qgis": "MessageLevel",
        "QgsApplication": "processingRegistry",
        "QgsCoordinateReferenceSystem": "isValid",
        "QgsCoordinateTransform": "transformBoundingBox",
        "QgsMapLayerProxyModel": "Filter",
        "QgsNetworkContentFetcher": "finished fetchContent reply contentAsString",
        "QgsProcessingAlgorithm": "addParameter parameterAsRasterLayer parameterAsOutputLayer parameterAsString "
        "parameterAsDouble parameterAsExtent parameterAsEnum invalidRasterError createInstance shortHelpString "
        "initAlgorithm processAlgorithm name displayName",
        "QgsProcessingException": "",
        "QgsProcessingFeedback": "pushCommandInfo pushInfo pushWarning setProgress setProgressText isCanceled",
        "QgsProcessingParameterEnum": "",
        "QgsProcessingParameterExtent": "",
        "QgsProcessingParameterNumber": "Type",
        "QgsProcessingParameterRasterDestination": "",
        "QgsProcessingParameterRasterLayer": "",
        "QgsProcessingParameterString": "",
        "QgsProcessingParameterVectorDestination": "",
        "QgsProcessingProvider": "addAlgorithm id name icon loadAlgorithms supportedOutputRasterLayerExtensions "
        "supportedOutputVectorLayerExtensions",
        "QgsProcessingRegistry": "addProvider removeProvider",
        "QgsProject": "instance layerTreeRoot addMapLayer",
        "QgsLayerTreeGroup": "findGroup insertGroup insertLayer",
        "QgsProviderRegistry": "instance decodeUri",
        "QgsRasterLayer": "isValid serverProperties setAttribution setExtent crs source dataProvider name",
        "QgsRectangle": "xMinimum yMinimum xMaximum yMaximum",
        "QgsRunProcess": "splitCommand",
        "QgsSettings": "value setValue",
    },
    "qgis.gui": {
        "QgisInterface": "mainWindow mapCanvas messageBar addDockWidget removeDockWidget addRasterToolBarIcon "
        "removeRasterToolBarIcon addPluginToRasterMenu removePluginRasterMenu",
        "QgsFileWidget": "StorageMode setStorageMode setFilePath fileChanged",
        "QgsMapCanvas": "setExtent mapSettings refresh",
        "QgsMapLayerComboBox": "setFilters setAllowEmptyLayer setToolTip currentLayer",
        "QgsMessageBar": "pushMessage",
    },
    "qgis.PyQt.QtCore": {
        "QProcess": "setProcessEnvironment setProgram setArguments start waitForStarted waitForFinished state kill "
        "terminate readAllStandardOutput readAllStandardError exitStatus exitCode errorString closeWriteChannel "
        "readyReadStandardOutput readyReadStandardError finished errorOccurred deleteLater program ProcessState "
        "ExitStatus ProcessError",
        "QProcessEnvironment": "systemEnvironment insert remove",
        "QStandardPaths": "findExecutable",
        "QUrl": "fromLocalFile",
        "Qt": "DockWidgetArea ItemDataRole CheckState",
    },
    "qgis.PyQt.QtGui": {"QDesktopServices": "openUrl", "QIcon": ""},
    "qgis.PyQt.QtNetwork": {"QNetworkReply": "error errorString NetworkError"},
    "qgis.PyQt.QtWidgets": {
        "QAction": "triggered",
        "QDockWidget": "setObjectName setWidget show hide raise_ deleteLater",
        "QFormLayout": "addRow",
        "QGroupBox": "",
        "QHBoxLayout": "addWidget",
        "QLabel": "setWordWrap setText",
        "QLineEdit": "returnPressed setText text setToolTip setPlaceholderText",
        "QPushButton": "clicked",
        "QTreeWidget": "setHeaderHidden clear topLevelItem topLevelItemCount",
        "QTreeWidgetItem": "setExpanded setData data setCheckState checkState child childCount",
        "QVBoxLayout": "addWidget addLayout addStretch",
        "QWidget": "",
    },
}
calls: list[tuple[str, str, tuple[Any, ...]]] = []
"""(class, method, arguments) of what was called, in order."""
settings: dict[str, Any] = {}
"""The user's profile."""


class Signal:
    """A signal of Qt."""

    def __init__(self) -> None:
        self.slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        self.slots.append(slot)

    def disconnect(self) -> None:
        self.slots.clear()

    def emit(self, *values: Any) -> None:
        for slot in list(self.slots):
            slot(*values)


SIGNALS = {
    "finished", "fileChanged", "returnPressed", "clicked", "triggered", "readyReadStandardOutput",
    "readyReadStandardError", "errorOccurred",
}  # fmt: skip


class _Names(type):
    """Enumerations are their own names: Filter.RasterLayer is "Filter.RasterLayer"."""

    def __getattr__(cls, name: str) -> Any:
        if name in cls.api and name[0].isupper():
            return type(name, (), {"__getattr__": lambda self, one: f"{name}.{one}"})()
        if name in cls.api:
            return lambda *values: cls._called(name, values)
        raise AttributeError(f"{cls.__name__} has no {name} in tests/qgis/stubs.py")


class Stub(metaclass=_Names):
    """An object of a class of `API`: records calls, and refuses other names."""

    api: ClassVar[set[str]] = set()
    returns: ClassVar[dict[str, Any]] = {}

    def __init__(self, *values: Any) -> None:
        self.made_of = values
        calls.append((type(self).__name__, "__init__", values))

    @classmethod
    def _called(cls, name: str, values: tuple[Any, ...]) -> Any:
        calls.append((cls.__name__, name, values))
        given = cls.returns.get(name)
        return given() if callable(given) else given

    def __getattr__(self, name: str) -> Any:
        if name in SIGNALS and name in self.api:
            self.__dict__[name] = Signal()
            return self.__dict__[name]
        return getattr(type(self), name)


def _class(name: str, own: dict[str, Any]) -> type[Stub]:
    api = next(set(names[name].split()) for names in API.values() if name in names)
    methods = {key for key in own if not key.startswith("_") and key != "returns"}
    assert methods <= api, methods - api
    return _Names(name, (Stub,), {"api": api, **own})  # type: ignore[return-value]


def _process_start(self: Any) -> None:
    self.out, self.err, self.popen, self.sent = b"", b"", None, [0, 0]
    try:
        self.popen = subprocess.Popen(
            [self.first, *self.rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env=self.environment.values,
        )  # fmt: skip
    except OSError as error:
        self.reason = error.strerror
        self.errorOccurred.emit("ProcessError.FailedToStart")


def _process_wait(self: Any, milliseconds: int) -> bool:
    """As Qt: what was written meanwhile can be read, and the signals come."""
    pipes = self.popen.stdout, self.popen.stderr
    if pipes[0].closed:
        return True
    for pipe in pipes:
        os.set_blocking(pipe.fileno(), False)
    stop = time.monotonic() + milliseconds / 1000
    while True:
        ended = self.popen.poll() is not None
        self.out += self.popen.stdout.read() or b""
        self.err += self.popen.stderr.read() or b""
        if self.out:
            self.readyReadStandardOutput.emit()
        if self.err:
            self.readyReadStandardError.emit()
        if ended or time.monotonic() > stop:
            if ended:
                for pipe in pipes:
                    pipe.close()
                self.finished.emit(self.popen.returncode, None)
            return ended
        time.sleep(0.01)


def _taken(which: str) -> Callable[[Any], bytes]:
    def take(self: Any) -> bytes:
        data: bytes = getattr(self, which)
        setattr(self, which, b"")
        return data

    return take


class _Environment:
    def __init__(self) -> None:
        self.values = dict(os.environ)

    def insert(self, name: str, value: str) -> None:
        self.values[name] = value

    def remove(self, name: str) -> None:
        self.values.pop(name, None)


def _fetch(self: Any, url: Any) -> None:
    self.failure, self.content = None, ""
    try:
        with urllib.request.urlopen(url.made_of[0], timeout=240) as answer:
            self.content = answer.read().decode()
    except urllib.error.URLError as error:
        self.failure = str(error)
    self.finished.emit()


def _reply(self: Any) -> Any:
    failure = self.failure
    kind = "NetworkError.NoError" if failure is None else "NetworkError.Other"
    made = BUILT["QNetworkReply"]()
    made.__dict__.update(error=lambda: kind, errorString=lambda: failure)
    return made


def _tree_item(self: Any, parent: Any, texts: list[str]) -> None:
    self.children, self.values, self.state = [], {}, None
    self.texts = texts
    parent.__dict__.setdefault("children", []).append(self)


def _constant(value: Any) -> Callable[..., Any]:
    return lambda self, *given: value


def _built() -> dict[str, type[Stub]]:
    """All classes; those with behaviour are written out."""
    own: dict[str, dict[str, Any]] = {
        "QgsSettings": {
            "value": lambda self, key, default=None: settings.get(key, default),
            "setValue": lambda self, key, value: settings.__setitem__(key, value),
        },
        "QProcessEnvironment": {"returns": {"systemEnvironment": _Environment}},
        "QStandardPaths": {"returns": {"findExecutable": ""}},
        "QProcess": {
            "setProcessEnvironment": lambda self, environment: self.__dict__.__setitem__("environment", environment),
            "setProgram": lambda self, first: self.__dict__.__setitem__("first", first),
            "setArguments": lambda self, rest: self.__dict__.__setitem__("rest", rest),
            "program": lambda self: self.first,
            "start": _process_start,
            "waitForStarted": lambda self: self.popen is not None,
            "waitForFinished": _process_wait,
            "state": lambda self: f"ProcessState.{'NotRunning' if self.popen.poll() is not None else 'Running'}",
            "terminate": lambda self: self.popen.terminate(),
            "kill": lambda self: self.popen.kill(),
            "exitStatus": lambda self: f"ExitStatus.{'NormalExit' if self.popen.returncode >= 0 else 'CrashExit'}",
            "exitCode": lambda self: self.popen.returncode,
            "errorString": lambda self: self.reason,
            "readAllStandardOutput": _taken("out"),
            "readAllStandardError": _taken("err"),
        },
        "QgsNetworkContentFetcher": {
            "fetchContent": _fetch, "reply": _reply, "contentAsString": lambda self: self.content,
        },
        "QgsRasterLayer": {
            "isValid": _constant(True),
            "crs": lambda self: BUILT["QgsCoordinateReferenceSystem"]("EPSG:3857"),
            "name": lambda self: self.made_of[1],
            "source": lambda self: self.made_of[0],
            "dataProvider": lambda self: type("Provider", (), {"name": lambda _: self.made_of[2]})(),
            "serverProperties": lambda self: object(),
        },
        "QgsProviderRegistry": {
            "returns": {"instance": lambda: BUILT["QgsProviderRegistry"]()},
            "decodeUri": lambda self, provider, uri: {"path": uri.partition("|")[0]},
        },
        "QgsProject": {
            "returns": {
                "instance": lambda: BUILT["QgsProject"](),
                "layerTreeRoot": lambda: BUILT["QgsLayerTreeGroup"](),
            }
        },
        "QgsLayerTreeGroup": {"returns": {"insertGroup": lambda: BUILT["QgsLayerTreeGroup"]()}},
        "QgsApplication": {"returns": {"processingRegistry": lambda: BUILT["QgsProcessingRegistry"]()}},
        "QgsCoordinateReferenceSystem": {"isValid": _constant(True)},
        "QgsCoordinateTransform": {"transformBoundingBox": lambda self, box: box},
        "QgsRectangle": {
            name: lambda self, place=place: self.made_of[place]
            for place, name in enumerate(("xMinimum", "yMinimum", "xMaximum", "yMaximum"))
        },
        "QgsRunProcess": {"splitCommand": staticmethod(lambda text: text.split())},
        "QgsMapLayerComboBox": {"currentLayer": lambda self: self.__dict__.get("layer")},
        "QgsMapCanvas": {"mapSettings": lambda self: type("Settings", (), {"destinationCrs": lambda _: _crs()})()},
        "QgisInterface": {
            "returns": {
                "mapCanvas": lambda: BUILT["QgsMapCanvas"](), "messageBar": lambda: BUILT["QgsMessageBar"](),
            }
        },
        "QLineEdit": {
            "text": lambda self: self.__dict__.get("shown", (self.made_of or ("",))[0]),
            "setText": lambda self, text: self.__dict__.__setitem__("shown", text),
        },
        "QLabel": {"setText": lambda self, text: calls.append(("QLabel", "setText", (text,)))},
        "QTreeWidget": {
            "clear": lambda self: self.__dict__.__setitem__("children", []),
            "topLevelItem": lambda self, row: self.children[row],
            "topLevelItemCount": lambda self: len(self.__dict__.get("children", [])),
        },
        "QTreeWidgetItem": {
            "__init__": _tree_item,
            "setData": lambda self, column, role, value: self.values.__setitem__(role, value),
            "data": lambda self, column, role: self.values[role],
            "setCheckState": lambda self, column, state: self.__dict__.__setitem__("state", state),
            "checkState": lambda self, column: self.state,
            "child": lambda self, place: self.children[place],
            "childCount": lambda self: len(self.children),
        },
        "QgsProcessingAlgorithm": {
            "addParameter": lambda self, one: self.__dict__.setdefault("declared", {}).__setitem__(one.made_of[0], one),
            "parameterAsRasterLayer": lambda self, given, name, _: given[name],
            "parameterAsOutputLayer": lambda self, given, name, _: given[name],
            "parameterAsString": lambda self, given, name, _: given.get(name) or "",
            "parameterAsDouble": lambda self, given, name, _: given[name],
            "parameterAsEnum": lambda self, given, name, _: given.get(name, 0),
            "parameterAsExtent": lambda self, given, name, _, crs: given[name],
        },
    }  # fmt: skip
    return {name: _class(name, own.get(name, {})) for names in API.values() for name in names}


def _crs() -> Any:
    return BUILT["QgsCoordinateReferenceSystem"]("EPSG:3857")


BUILT: dict[str, Any] = {}
BUILT.update(_built())


class ProcessingError(Exception):
    """QgsProcessingException."""


BUILT["QgsProcessingException"] = ProcessingError


@contextmanager
def installed() -> Iterator[None]:
    """Puts the stubs where `import qgis` finds them, and takes them away again."""
    modules = {"qgis": ModuleType("qgis"), "qgis.PyQt": ModuleType("qgis.PyQt")}
    for name, classes in API.items():
        modules[name] = ModuleType(name)
        modules[name].__dict__.update({one: BUILT[one] for one in classes})
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    calls.clear()
    settings.clear()
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
