"""The draw page as one HTML file, which runs from a disk without a server or a network."""

from __future__ import annotations

import base64
import json
import re
from graphlib import TopologicalSorter
from pathlib import Path

from terramorph.atomic import write_text
from terramorph.cartography import Style
from terramorph.draw.site import PAGE, RUNTIME, STATIC, WebModel, check_models, site_files

_IMPORT = re.compile(r"""(?:from|import)\s*\(?\s*["'](\./[\w./-]+\.m?js)["']""")
_STYLE = '<link rel="stylesheet" href="./draw.css">'
_START = '<script type="module" src="./app.js"></script>'
# That no request leaves the page is not left to the page alone.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; style-src 'unsafe-inline'; "
    "img-src data: blob:; worker-src blob:; connect-src blob: data:; base-uri 'none'; form-action 'none'"
)


def write_one_file(models: list[WebModel], out: str | Path, *, style: Style | None = None) -> Path:
    """Write the page as one HTML file.

    Scripts stand in it as they are; networks and runtime compressed and as base64, a third more than their bytes.

    Raises:
        ConfigError: If a model cannot be used.
        StorageError: If the file cannot be written.
    """
    check_models([(one.name, one.stated[0]) for one in models])
    files, config = site_files(models, style=style, embedded=True)
    page = files.pop(PAGE).decode()
    texts = {name: files.pop(name).decode() for name in list(files) if name.endswith((".js", ".mjs"))}
    css = files.pop("draw.css").decode()
    licence = files.pop(f"vendor/{RUNTIME}/LICENSE").decode()
    modules = {f"./{name}": texts[name] for name in _ordered(texts)}
    inside = [
        f"<!-- This file holds ONNX Runtime Web:\n{licence.strip()}\n-->",
        _block("config", "application/json", _escaped(config)),
        _block("modules", "application/json", _escaped(modules)),
        *(
            _block(f"file:./{name}", "text/plain", base64.b64encode(content).decode())
            for name, content in files.items()
            if name.endswith(".gz")
        ),
        f"<script>{(STATIC / 'inside.js').read_text(encoding='utf-8')}</script>",
    ]
    for mark in (_STYLE, _START, "</body>"):
        if page.count(mark) != 1:
            raise AssertionError(f"{PAGE} has {page.count(mark)} times {mark}")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = page.replace(_STYLE, f"{policy}\n<style>{css}</style>")
    page = page.replace(_START, "").replace("</body>", "\n".join([*inside, "</body>"]))
    write_text(Path(out), page, make_folder=True)
    return Path(out)


def _ordered(texts: dict[str, str]) -> list[str]:
    """Return names of modules, each after those that it imports."""
    needed = {name: [path.removeprefix("./") for path in _IMPORT.findall(texts[name])] for name in sorted(texts)}
    return list(TopologicalSorter(needed).static_order())


def _block(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _escaped(value: object) -> str:
    """Return JSON that ends no script element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
