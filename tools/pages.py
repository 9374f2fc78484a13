"""What the documentation site has besides docs/: the command line's help, the notebooks and the changelog.

MkDocs calls the functions `on_...` while it builds (mkdocs.yml, `hooks`).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
_TO_NOTEBOOK = re.compile(r"\]\((?:\.\./)?notebooks/(\w+)\.ipynb\)")
_TO_DOCS = re.compile(r"\]\(\.\./docs/([\w./#-]+)\)")
_FROM_ELSEWHERE = re.compile(r"<(?:script|link|img|iframe|source|video)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
_OF_REPOSITORY = re.compile(r"\]\((?:\.\./)?(CHANGELOG|CONTRIBUTING)\.md\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from other files of the repository."""
    pages: dict[str, str | bytes] = {"reference/cli.md": command_line()}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages |= notebook(path)
    for name in ("CHANGELOG", "CONTRIBUTING"):
        if (ROOT / f"{name}.md").is_file():
            text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
            pages[f"{name.lower()}.md"] = re.sub(r"\]\(docs/", "](", text)
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links to files of the repository, which hold on GitHub, hold on the site."""
    up = "../" * page.file.src_uri.count("/")
    markdown = _TO_NOTEBOOK.sub(rf"]({up}notebooks/\1.md)", markdown)
    markdown = _OF_REPOSITORY.sub(lambda match: f"]({up}{match[1].lower()}.md)", markdown)
    return _TO_DOCS.sub(rf"]({up}\1)", markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would load something from another host."""
    found = _FROM_ELSEWHERE.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads something from another host: {found[0]}")
    return output


def notebook(path: Path) -> dict[str, str | bytes]:
    """A notebook with the outputs that it was saved with: its page and its pictures by their names on the site."""
    document = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    text, resources = MarkdownExporter().from_notebook_node(document)
    text = re.sub(r"(?<=\]\()(\w+)\.ipynb\)", r"\1.md)", text)
    outputs: dict[str, bytes] = resources["outputs"]
    for name in outputs:
        text = text.replace(f"({name})", f"({path.stem}/{name})")
    pictures: dict[str, str | bytes] = {f"notebooks/{path.stem}/{name}": content for name, content in outputs.items()}
    return {f"notebooks/{path.stem}.md": text, **pictures}


def command_line() -> str:
    """A page of every command with its arguments, options and example, as `--help` has them."""
    from terramorph.cli.app import app

    group = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Every command has `--help`. An error is one sentence. The exit code is 2 for bad input, 1 for a failure, and",
        "130 or 143 after SIGINT or SIGTERM; `--debug` shows the traceback.",
        "",
    ]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        lines += _command(f"terramorph {name}", command)
    return "\n".join(lines)


def _command(name: str, command: Any) -> Iterator[str]:
    subcommands = getattr(command, "commands", {})
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f"{'##' if name.count(' ') == 1 else '###'} {name}", "", command.help or "", "")
    yield from (f"    {name} {usage}", "")
    records = [parameter.get_help_record(context) for parameter in command.params]
    if any(records):
        yield from ("| argument or option | |", "|---|---|")
        yield from (f"| <code>{escape(names)}</code> | {_help(text)} |" for names, text in filter(None, records))
        yield ""
    if command.epilog:
        yield from (_example(command.epilog), "")
    for verb, inner in subcommands.items():
        yield from _command(f"{name} {verb}", inner)


def _help(text: str) -> str:
    """A help text for a cell, with its options as code."""
    return re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"<code>\1</code>", escape(text.replace("\n", " ")))


def escape(text: str) -> str:
    """Text for a cell of a table."""
    return html.escape(text, quote=False).replace("|", "&#124;")


def _example(epilog: str) -> str:
    return "\n".join(f"    {line.strip()}" for line in epilog.removeprefix("Example: ").split(" | "))
