"""What the book consists of: the chapters that ``_quarto.yml`` names, and the cells and prose of a chapter's file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.schema import ROOT

_CELL = re.compile(r"^(`{3,})[ \t]*\{python\}[ \t]*\n(.*?)^\1`*[ \t]*$\n?", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`\{python\}[ \t]([^`]+)`")
_UNNUMBERED = re.compile(r"^# .*\{([^}]* )?(\.unnumbered|-)[ }]", re.MULTILINE)


class BookError(RuntimeError):
    """What is wrong with the book: one line for each cause, with its file and, where there is one, its line."""


@dataclass(frozen=True)
class Chapter:
    """A chapter's path from the book's folder and the number that the book gives it ("2", "A"); "" for none."""

    path: str
    number: str = ""

    @property
    def stem(self) -> str:
        return Path(self.path).stem


@dataclass(frozen=True)
class Book:
    """The folder, settings and chapters of a book, in reading order."""

    root: Path
    settings: dict
    chapters: tuple[Chapter, ...]

    @property
    def title(self) -> str:
        return self.settings["book"]["title"]

    def option(self, to: str, name: str, default: Any = None) -> Any:
        """An option of a format ("html" or "typst"), which the book's ``execute`` options back."""
        backing = (self.settings.get("execute") or {}).get(name, default)
        return (self.settings.get("format", {}).get(to) or {}).get(name, backing)


@dataclass
class Part:
    """A stretch of a chapter's prose, or a cell, and the line on which it starts.

    ``options`` are the cell's, None for prose. Executing adds a cell's ``outputs`` and, for prose, the Markdown of each
    inline expression to ``values``.
    """

    source: str
    line: int
    options: dict | None = None
    outputs: list[dict] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def expressions(self) -> Iterator[tuple[str, int]]:
        """Each inline expression of prose with its line."""
        for match in _INLINE.finditer(self.source if self.options is None else ""):
            yield match[1].strip(), self.line + self.source.count("\n", 0, match.start())

    def evaluated(self) -> str:
        """Prose with the value of each inline expression in its place."""
        return _INLINE.sub(lambda match: self.values[match[1].strip()], self.source)


def load(root: Path = ROOT) -> Book:
    """Read ``_quarto.yml``. Raises `BookError` for a chapter that is missing, or that is not a plain file name."""
    import yaml

    settings = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    chapters = []
    for name, numbers in (("chapters", iter(range(1, 100))), ("appendices", iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))):
        for path in settings["book"].get(name) or []:
            if not isinstance(path, str) or not (root / path).is_file():
                raise BookError(f"_quarto.yml: {name}: {path}: must be the path of a chapter's file")
            text = _CELL.sub("", (root / path).read_text(encoding="utf-8"))
            plain = path == "index.qmd" or _UNNUMBERED.search(text)  # Quarto numbers no index.qmd
            chapters.append(Chapter(path, "" if plain else str(next(numbers))))
    return Book(root, settings, tuple(chapters))


def parts(path: str, root: Path = ROOT) -> list[Part]:
    """A chapter's prose and cells, in order. Raises `BookError` if a cell's options are not YAML."""
    import yaml

    text = (root / path).read_text(encoding="utf-8")
    found, end = [], 0
    for match in _CELL.finditer(text):
        found.append(Part(text[end : match.start()], text.count("\n", 0, end) + 1))
        line, end = text.count("\n", 0, match.start()) + 2, match.end()
        comments = "\n".join(row[2:].removeprefix(" ") for row in match[2].splitlines() if row.startswith("#|"))
        try:
            options = yaml.safe_load(comments) or {}
        except yaml.YAMLError as error:
            raise BookError(f"{path}:{line}: the cell's options are not YAML: {error}") from None
        found.append(Part(match[2], line, options))
    return [*found, Part(text[end:], text.count("\n", 0, end) + 1)]


def pandoc(text: str, *arguments: str, folder: Path, name: str = "pandoc") -> str:
    """What Pandoc makes of a text. Raises `BookError` for a warning too: it means that something is lost."""
    import pypandoc

    done = subprocess.run([pypandoc.get_pandoc_path(), *arguments], input=text, capture_output=True, encoding="utf-8",
                          cwd=folder)  # fmt: skip
    if done.returncode or "[WARNING]" in done.stderr:
        raise BookError(f"{name}: {done.stderr.strip()}")
    return done.stdout
