"""Whether the committed results of each chapter belong to the code and the data that are committed beside them.

Quarto's ``freeze: auto`` looks at the ``.qmd`` alone. Here a chapter's inputs are its file, every module of the package
that its cells import, directly or through others, and the data that those modules name; their digest is shown at the
chapter's end (`note`) and so is kept with the frozen results, where `stale` compares it with the tree.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import resolve_name
from pathlib import Path

from src import book, schema
from src.report import Text
from src.schema import ROOT

FREEZE = "_freeze"

_DIGEST = "Computed from inputs with digest `{}`."
_RESULTS = {"html": "html.json", "typst": "typ.json"}
_PASSING = re.compile(r"^\.|\.(lock|part|tmp)$")
"""Files that only a measurement in progress leaves among the data."""


def inputs(chapter: str, root: Path = ROOT) -> list[Path]:
    """What a chapter's results depend on, in a fixed order.

    A module depends on the data whose path it takes from `src.schema` by name (``CHIPS_PATH``, ``MACHINES_PATH``, ...):
    one file, or all the files of a folder. Raises `book.BookError` or SyntaxError if a cell or a module can't be read.
    """
    cells = [_uses(_python(part.source), "") for part in book.parts(chapter, root) if part.options is not None]
    modules: dict[Path, Uses] = {}
    queue = [path for cell in cells for path in _paths(cell, root)]
    while queue:
        path = queue.pop()
        if path not in modules:
            package = ".".join(path.relative_to(root).parent.parts)
            modules[path] = _uses(path.read_text(encoding="utf-8"), package)
            queue += _paths(modules[path], root)
    named = {name for path, uses in modules.items() if path.name != "schema.py" for name in uses.names}
    named |= {name for uses in cells for name in uses.names}
    data = {file for name in named for file in _files(_data_path(name, root))}
    return [root / chapter, *sorted(modules), *sorted(data)]


def digest(chapter: str, root: Path = ROOT) -> str:
    """12 hexadecimal digits that identify the names and contents of a chapter's inputs, however their lines end."""
    total = hashlib.sha256()
    for path in inputs(chapter, root):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{_name(path, root)}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:12]


def note(chapter: str) -> Text:
    """The line that each chapter ends with, as Markdown."""
    return Text(_DIGEST.format(digest(chapter)))


def stale(root: Path = ROOT) -> list[str]:
    """The chapters with cells whose frozen results lack a format, or show another digest than the tree's."""
    whole = book.load(root)
    formats = [_RESULTS[name] for name in whole.settings["format"] if name in _RESULTS]
    return [
        chapter.path
        for chapter in whole.chapters
        if any(part.options is not None for part in book.parts(chapter.path, root))
        and not _shown_by_all(_frozen(chapter.path, root, formats), digest(chapter.path, root))
    ]


def clear(root: Path = ROOT) -> list[str]:
    """Delete the frozen results of stale chapters, so that Quarto executes them again. Returns the chapters."""
    chapters = stale(root)
    for chapter in chapters:
        shutil.rmtree(root / FREEZE / Path(chapter).with_suffix(""), ignore_errors=True)
    return chapters


@dataclass(frozen=True)
class Uses:
    """What a piece of Python imports, as dotted names, and every name in it."""

    imports: tuple[str, ...]
    names: frozenset[str]


def _python(source: str) -> str:
    # Lines for IPython alone are no Python, and import nothing.
    return re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)


@lru_cache(maxsize=1024)  # chapters share most of their modules
def _uses(source: str, package: str) -> Uses:
    imports: list[str] = []
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            imports += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.alias):
            names.add(node.name)
    return Uses(tuple(imports), frozenset(names))


def _paths(uses: Uses, root: Path) -> Iterator[Path]:
    """The files of the book's package among what is imported, anywhere in it.

    This module is left out: it says which results are stale, and has no part in what they are.
    """
    for name in uses.imports:
        parts = name.split(".")
        for length in range(1, len(parts) + 1) if parts[0] == "src" else ():
            stem = root.joinpath(*parts[:length])
            yield from (file for file in (stem.with_suffix(".py"), stem / "__init__.py")
                        if file.is_file() and file != root / "src" / "freshness.py")  # fmt: skip


def _data_path(name: str, root: Path) -> Path | None:
    """The path that a name stands for in `src.schema`, in a book's folder; None for any other name."""
    path = getattr(schema, name, None) if name.endswith("_PATH") else None
    return root / path.relative_to(ROOT) if path is not None and path.is_relative_to(ROOT) else path


def _files(path: Path | None) -> list[Path]:
    if path is None or not path.exists():
        return []
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return [file for file in found if not _PASSING.search(file.name)]


def _name(path: Path, root: Path) -> str:
    """A path's name in the digest: the same wherever the book, or data that replace the book's own, are kept."""
    for folder, prefix in ((schema.DATA_PATH, "data/"), (root, "")):
        if path.is_relative_to(folder):
            return prefix + path.relative_to(folder).as_posix()
    return path.as_posix()


def _frozen(chapter: str, root: Path, formats: list[str]) -> list[Path]:
    folder = root / FREEZE / Path(chapter).with_suffix("") / "execute-results"
    return [folder / name for name in formats]


def _shown_by_all(files: Iterable[Path], expected: str) -> bool:
    shown = _DIGEST.format(expected)
    return all(file.is_file() and shown in file.read_text(encoding="utf-8") for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.freshness", description=__doc__)
    parser.add_argument("--clear", action="store_true", help="delete the frozen results of stale chapters")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a chapter is stale")
    options = parser.parse_args()
    try:
        chapters = clear() if options.clear else stale()
        for chapter in book.load().chapters:
            state = "stale" if chapter.path in chapters else "fresh"
            print(f"{state}  {digest(chapter.path)}  {chapter.path}")
    except book.BookError as error:
        sys.exit(str(error))
    sys.exit(1 if options.check and chapters else 0)


if __name__ == "__main__":
    main()
