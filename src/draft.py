"""The draft edition: the book without Quarto, as one self-contained HTML file and a PDF.

For machines where Quarto can't be had. Jupyter executes the same chapters, Pandoc converts them, Typst sets the PDF.
It knows what these chapters use (cells and their options, inline values, cross-references, citations, callouts,
captions, alternative text) and nothing else; Quarto stays the reference.

A chapter becomes parts (`parse`), the parts get outputs and values (`execute`), then Markdown (`Executed.markdown`);
Pandoc reads that into a tree, in which `Numbering` numbers what Quarto would number and resolves what refers to it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from src import assets
from src.schema import DATA_VARIABLE, ROOT

OUTPUT = ROOT / "_draft"
ASSETS = ROOT / "assets"
FORMATS = {"html": "html", "pdf": "typst"}
"""From the file that is asked for to the format of Quarto's that its options are under."""

CELL_TIMEOUT_S = 600
KERNELS = 2
"""Chapters that execute at a time."""

_CELL = re.compile(r"^(`{3,})[ \t]*\{python\}[ \t]*\n(.*?)^\1`*[ \t]*$\n?", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`\{python\}[ \t]([^`]+)`")
_IMAGES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}
_KINDS = {"fig": "Figure", "tbl": "Table", "eq": "Equation", "sec": "Section"}
_LABEL = re.compile(r"(fig|tbl|eq|sec)-[\w-]+")
_CALLOUTS = {".callout-note", ".callout-tip", ".callout-warning", ".callout-caution", ".callout-important"}
_NBSP = "\u00a0"


class DraftError(RuntimeError):
    """Why the book can't be rendered: one line for each cause, with its file and, where there is one, its line."""


# The book ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chapter:
    """A chapter's path from the book's folder and the number that the book gives it ("2", "A"); "" for none."""

    path: str
    number: str = ""


@dataclass(frozen=True)
class Book:
    """What ``_quarto.yml`` says about the book."""

    root: Path
    settings: dict
    chapters: tuple[Chapter, ...]

    @property
    def title(self) -> str:
        return self.settings["book"]["title"]

    def option(self, to: str, name: str, default: Any = None) -> Any:
        """An option of a format ("html" or "typst"), which the book's ``execute`` options back."""
        formats = self.settings.get("format") or {}
        return (formats.get(to) or {}).get(name, (self.settings.get("execute") or {}).get(name, default))


def load(root: Path = ROOT) -> Book:
    """Read ``_quarto.yml``. Raises `DraftError` for a chapter that is missing, or that is not a plain file name."""
    settings = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    chapters, counts = [], {"chapters": 0, "appendices": 0}
    for part in counts:
        for path in settings["book"].get(part) or []:
            if not isinstance(path, str) or not (root / path).is_file():
                raise DraftError(f"_quarto.yml: {part}: {path}: must be the path of a chapter")
            text = _CELL.sub("", (root / path).read_text(encoding="utf-8"))
            unnumbered = path == "index.qmd" or re.search(r"^# .*\{[^}]*(\.unnumbered|-)[ }]", text, re.MULTILINE)
            counts[part] += not unnumbered
            number = counts[part] if part == "chapters" else chr(ord("A") + counts[part] - 1)
            chapters.append(Chapter(path, "" if unnumbered else str(number)))
    return Book(root, settings, tuple(chapters))


# Executing -----------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """A stretch of prose or a cell of a chapter: where it starts, and after `execute` what it showed or evaluated to.

    ``options`` are the cell's; prose has None. ``values`` hold the Markdown of each inline expression.
    """

    source: str
    line: int
    options: dict | None = None
    outputs: list[dict] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)


def parse(text: str, path: str) -> list[Part]:
    """Split a chapter into prose and cells. Raises `DraftError` if a cell's options are not YAML."""
    parts, end = [], 0
    for match in _CELL.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        parts.append(Part(text[end : match.start()], text.count("\n", 0, end) + 1))
        lines = match[2].splitlines(keepends=True)
        comments = [row for row in lines if row.startswith("#|")]
        try:
            options = yaml.safe_load("".join(row[2:].removeprefix(" ") for row in comments)) or {}
        except yaml.YAMLError as error:
            raise DraftError(f"{path}:{line}: the cell's options are not YAML: {error}") from None
        parts.append(Part(match[2], line + 1, options))
        end = match.end()
    parts.append(Part(text[end:], text.count("\n", 0, end) + 1))
    return parts


@dataclass
class Executed:
    """A chapter with the outputs of its cells and the values of its inline expressions."""

    chapter: Chapter
    parts: list[Part]

    def markdown(self, book: Book, to: str, folder: Path) -> str:
        """The chapter as Pandoc's Markdown for "html" or "typst"; its images are written into a folder."""
        pieces = []
        for index, part in enumerate(self.parts):
            if part.options is None:
                pieces.append(_INLINE.sub(lambda match, values=part.values: values[match[1].strip()], part.source))
            else:
                stem = f"{Path(self.chapter.path).stem}-{index}"
                pieces.append(_cell_markdown(part, book, to, folder, stem))
        return "".join(pieces)


def execute(chapter: Chapter | str, root: Path = ROOT, data: Path | None = None) -> Executed:
    """Execute a chapter from scratch in a kernel of its own, whose working directory is the book's folder.

    ``data`` is a folder to read in place of ``data/``. Raises `DraftError` with file and line if a cell or an inline
    expression fails, or if an inline value is empty.
    """
    import nbformat.v4
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    chapter = Chapter(chapter) if isinstance(chapter, str) else chapter
    parts = parse((root / chapter.path).read_text(encoding="utf-8"), chapter.path)
    runs = [(part, code) for part in parts if (code := _code(part))]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for _, code in runs])
    # Without a folder of kernels to search, the kernel is this very Python, as the environment has it.
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(notebook, km=manager, timeout=CELL_TIMEOUT_S, extra_arguments=["--log-level=40"],
                            resources={"metadata": {"path": str(root)}})  # fmt: skip
    environment = {**os.environ, **({DATA_VARIABLE: str(data.absolute())} if data else {})}
    try:
        client.execute(env=environment)
    except (CellControlSignal, DeadKernelError) as error:
        part, cell = next(
            pair for pair in zip((part for part, _ in runs), notebook.cells, strict=True) if not _finished(pair[1])
        )
        raise DraftError(_failure(chapter.path, part, cell, error)) from None
    for (part, _), cell in zip(runs, notebook.cells, strict=True):
        if part.options is None:
            part.values = dict(_values(chapter.path, part, cell))
        else:
            part.outputs = cell.outputs
    return Executed(chapter, parts)


def execute_all(book: Book, chapters: Iterable[Chapter] | None = None, data: Path | None = None) -> list[Executed]:
    """Execute chapters (by default all), a few at a time; in the order given. Raises `DraftError` with every cause."""
    with ThreadPoolExecutor(KERNELS) as pool:
        running = [pool.submit(execute, chapter, book.root, data) for chapter in chapters or book.chapters]
    if causes := [str(error) for run in running if isinstance(error := run.exception(), DraftError)]:
        raise DraftError("\n".join(causes))
    return [run.result() for run in running]


def _code(part: Part) -> str:
    """What a kernel executes for a part: a cell as it stands, or the evaluation of a prose part's expressions."""
    if part.options is not None:
        return part.source if part.options.get("eval", True) else ""
    expressions = {match[1].strip(): match[1].strip() for match in _INLINE.finditer(part.source)}
    if not expressions:
        return ""
    return (
        "import IPython.display as _display\n"
        f"_display.display({{'application/json': get_ipython().user_expressions({expressions!r})}}, raw=True)"
    )


def _finished(cell: dict) -> bool:
    return "shell.execute_reply" in cell.metadata.get("execution", {}) and not any(
        output.output_type == "error" for output in cell.outputs
    )


def _failure(path: str, part: Part, cell: dict, error: Exception) -> str:
    """One line for a cell that failed, at the line of the chapter that raised."""
    for output in cell.outputs:
        if output.output_type == "error":
            trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback))
            lines = re.findall(r"Cell In\[\d+\], line (\d+)", trace)
            return f"{path}:{part.line + int(lines[-1] if lines else 1) - 1}: {output.ename}: {output.evalue}"
    return f"{path}:{part.line}: the cell did not finish: {error or type(error).__name__}"


def _values(path: str, part: Part, cell: dict) -> Iterator[tuple[str, str]]:
    """The Markdown of each inline expression, as Quarto inserts it: Markdown raw, other text escaped if quoted."""
    results = cell.outputs[0].data["application/json"]
    for match in _INLINE.finditer(part.source):
        expression = match[1].strip()
        result = results[expression]
        where = f"{path}:{part.line + part.source.count(chr(10), 0, match.start())}: `{expression}`"
        if result["status"] == "error":
            raise DraftError(f"{where}: {result['ename']}: {result['evalue']}")
        value = result["data"].get("text/markdown", _escaped(result["data"].get("text/plain", "")))
        if not value.strip():
            raise DraftError(f"{where}: must not be empty")
        yield expression, value


def _escaped(text: str) -> str:
    """A string's repr without its quotes and with Markdown's characters escaped; other reprs as they are."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    return re.sub(r"([\\`*_{}\[\]()>#+\-.!])", r"\\\1", text[1:-1].replace("\\\\", "\\"))


# Markdown of a cell --------------------------------------------------------------------------------------------------


def _cell_markdown(part: Part, book: Book, to: str, folder: Path, stem: str) -> str:
    """What a cell shows: its code (folded in HTML) and its outputs, in a float if it is labelled as one."""
    option = {name: book.option(to, name) for name in ("echo", "include", "output", "code-fold", "warning")}
    option = {name: part.options.get(name, True if value is None else value) for name, value in option.items()}
    if option["include"] is False:
        return ""
    shown = []
    if option["output"] is not False:
        for index, output in enumerate(part.outputs):
            if option["warning"] is False and output.get("name") == "stderr":
                continue
            shown.append(_output_markdown(output, option["output"] == "asis", to, folder / f"{stem}-{index}"))
    label = str(part.options.get("label", ""))
    caption = part.options.get(f"{label[:3]}-cap")
    if caption:
        alt = _quoted(part.options.get("fig-alt", ""))
        shown = [f"::: {{#{label} fig-alt={alt}}}\n", *shown, f"\n{caption}\n:::\n"]
    code = ""
    if option["echo"] is not False:
        lines = [line for line in part.source.splitlines() if not line.startswith("#|")]
        code = _fenced("\n".join(lines).strip("\n"), "python")
        if to == "html" and option["code-fold"] is not False:
            summary = part.options.get("code-summary", book.option(to, "code-summary", "Code"))
            opening = f"<details class='code-fold'{' open' * (option['code-fold'] == 'show')}>"
            start, end = (_fenced(tag, "{=html}") for tag in (f"{opening}<summary>{summary}</summary>", "</details>"))
            code = start + code + end
        code = f"\n::: {{.cell-code}}\n{code}\n:::\n"
    return "\n" + code + "".join(shown) + "\n"


def _output_markdown(output: dict, asis: bool, to: str, path: Path) -> str:
    """One output of a cell, in the richest form that the format can show."""
    if output["output_type"] == "stream":
        if asis and output["name"] == "stdout":
            return f"\n{output['text']}\n"
        return f"\n::: {{.cell-output .{output['name']}}}\n{_fenced(output['text'].rstrip())}\n:::\n"
    data = output["data"]
    kinds = ["text/html"] * (to == "html") + ["text/markdown", *_IMAGES, "text/plain"]
    kind = next((kind for kind in kinds if kind in data), None)
    if kind is None:
        return ""
    if kind in _IMAGES:
        path = path.with_suffix("." + _IMAGES[kind])
        path.write_bytes(data[kind].encode() if kind == "image/svg+xml" else base64.b64decode(data[kind]))
        content = f"![]({path.name})\n"
    elif kind == "text/markdown":
        content = data[kind]
    else:
        content = _fenced(data[kind], "{=html}" if kind == "text/html" else "")
    return f"\n{content}\n" if asis else f"\n::: {{.cell-output}}\n{content}\n:::\n"


def _fenced(text: str, language: str = "") -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"\n{fence}{language}\n{text}\n{fence}\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Pandoc's tree -------------------------------------------------------------------------------------------------------

Visit = Callable[[dict], list[dict] | None]


def _walk(node: Any, visit: Visit) -> Any:
    """Visit every element in reading order. ``visit`` may change one, or return those that replace it."""
    if isinstance(node, list):
        walked: list = []
        for item in node:
            new = visit(item) if isinstance(item, dict) and "t" in item else None
            walked.extend(_walk(new, visit)) if new is not None else walked.append(_walk(item, visit))
        return walked
    return {key: _walk(value, visit) for key, value in node.items()} if isinstance(node, dict) else node


def _find(node: Any, kind: str) -> list[dict]:
    """Every element of a kind below a node."""
    found: list[dict] = []

    def visit(element: dict) -> None:
        if element["t"] == kind:
            found.append(element)

    _walk(node, visit)
    return found


def _words(text: str) -> list[dict]:
    words = ({"t": "Str", "c": word} for word in text.split(" "))
    return [token for word in words for token in ({"t": "Space"}, word)][1:]


def _text(node: Any) -> str:
    """The words of inlines, without their markup."""
    words: list[str] = []

    def visit(element: dict) -> None:
        words.append(element["c"] if element["t"] == "Str" else " " * (element["t"] in ("Space", "SoftBreak")))

    _walk(node, visit)
    return "".join(words)


def _element(kind: str, identifier: str, classes: Sequence[str], content: list) -> dict:
    return {"t": kind, "c": [[identifier, list(classes), []], content]}


class Numbering:
    """Numbers a book's headings, figures, tables and equations as Quarto does, and resolves what refers to them.

    `number` takes the chapters' blocks one after another; then `resolve` turns references into links. ``problems``
    collects what is wrong, with the chapter where it stands.
    """

    def __init__(self, book: Book, to: str, folder: Path):
        self.book, self.to, self.folder = book, to, folder
        self.labels: dict[str, str] = {}
        self.anchors: dict[str, str] = {}
        self.problems: list[str] = []

    def number(self, chapter: Chapter, blocks: list[dict]) -> list[dict]:
        self.chapter, self.counts, self.levels = chapter, dict.fromkeys(_KINDS, 0), [0] * 6
        return _walk(blocks, self._visit)

    def resolve(self, chapter: Chapter, blocks: list[dict]) -> list[dict]:
        self.chapter = chapter
        return _walk(blocks, self._refer)

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self.chapter.path}: {text}")

    def _register(self, label: str, kind: str) -> str:
        """Count one more of a kind; returns its number, "3.2" or, in a chapter without a number, "2"."""
        self.counts[kind] += 1
        number = f"{self.chapter.number}.{self.counts[kind]}".removeprefix(".")
        self._label(label, f"{_KINDS[kind]}{_NBSP}{number}")
        return number

    def _label(self, label: str, text: str) -> None:
        if label in self.labels:
            self._problem(f"@{label} is defined twice")
        self.labels[label] = text

    def _visit(self, element: dict) -> list[dict] | None:
        kind, content = element["t"], element.get("c")
        if kind == "Header":
            self._header(content)
        elif kind in ("Figure", "Table") and _LABEL.fullmatch(content[0][0]):
            label, caption = content[0][0], content[1][1]
            number = self._register(label, label[:3])
            text = f"{_KINDS[label[:3]]}{_NBSP}{number}: "
            first = caption[0] if caption else {"t": "Plain", "c": []}
            if not first["c"]:
                self._problem(f"@{label} has no caption")
            content[1][1] = [{"t": "Plain", "c": [*_words(text), *first["c"]]}, *caption[1:]]
            if kind == "Figure":
                _describe(content, dict(content[0][2]).get("fig-alt", ""))
        elif kind in ("Para", "Plain"):
            element["c"] = self._equations(content)
        elif kind == "Image":
            return self._image(content)
        elif kind == "Div":
            return self._division(content)
        return None

    def _header(self, content: list) -> None:
        level, (identifier, classes, _), inlines = content
        number = ""
        if self.chapter.number and "unnumbered" not in classes:
            self.levels[level - 1 :] = [self.levels[level - 1] + 1, *[0] * (6 - level)]
            number = ".".join([self.chapter.number, *map(str, self.levels[1:level])])
            appendix = level == 1 and not number.isdigit()
            text = f"Appendix{_NBSP}{number} —" if appendix else number
            inlines[:0] = [_element("Span", "", ["header-section-number"], _words(text)), {"t": "Space"}]
        if _LABEL.fullmatch(identifier):
            word = ("Chapter" if number.isdigit() else "Appendix") if level == 1 else "Section"
            if number:
                self._label(identifier, f"{word}{_NBSP}{number}")
        else:  # Pandoc made it unique in its chapter alone.
            content[1][0] = f"{Path(self.chapter.path).stem}-{identifier}"
            self.anchors[f"{self.chapter.path}#{identifier}"] = content[1][0]
        self.anchors.setdefault(self.chapter.path, content[1][0])

    def _equations(self, inlines: list[dict]) -> list[dict]:
        """Inlines in which each display formula followed by its label carries its number."""
        done: list[dict] = []
        for inline in inlines:
            match = re.fullmatch(r"\{#(eq-[\w-]+)\}(.*)", inline["c"]) if inline["t"] == "Str" else None
            formula = next((old for old in reversed(done) if old["t"] not in ("Space", "SoftBreak")), None)
            if match is None or formula is None or formula["t"] != "Math":
                done.append(inline)
                continue
            del done[done.index(formula) :]
            formula["c"][1] += rf" \qquad\text{{({self._register(match[1], 'eq')})}}"
            done += [_element("Span", match[1], ["equation"], [formula]), *_words(match[2])]
        return done

    def _division(self, content: list) -> list[dict] | None:
        (identifier, classes, pairs), blocks = content
        attributes = dict(pairs)
        if callout := _CALLOUTS.intersection(f".{name}" for name in classes):
            return [self._callout(callout.pop().removeprefix(".callout-"), attributes, blocks)]
        if _LABEL.fullmatch(identifier) and identifier[:3] in ("fig", "tbl"):
            caption = blocks.pop()["c"] if blocks and blocks[-1]["t"] == "Para" else []
            code = [block for block in blocks if block["t"] == "Div" and "cell-code" in block["c"][0][1]]
            blocks = [block for block in blocks if block not in code]
            tables = _find(blocks, "Table")
            if identifier.startswith("tbl") and len(tables) == 1:
                tables[0]["c"][0][0], tables[0]["c"][1][1] = identifier, [{"t": "Plain", "c": caption}]
                return [*code, tables[0]]
            attr = [identifier, [identifier[:3]], [["fig-alt", attributes.get("fig-alt", "")]]]
            return [*code, {"t": "Figure", "c": [attr, [None, [{"t": "Plain", "c": caption}]], blocks]}]
        return None

    def _image(self, content: list) -> list[dict] | None:
        """Bring a chapter's own image into the folder; for Typst, whose writer drops it, add the alternative text."""
        (_, _, pairs), alt, target = content
        source = self.book.root / Path(self.chapter.path).parent / target[0]
        if source.is_file():
            target[0] = f"{Path(self.chapter.path).stem}-{source.name}"
            shutil.copyfile(source, self.folder / target[0])
        if self.to != "typst":
            return None
        width = f", width: {dict(pairs)['width']}" if "width" in dict(pairs) else ""
        text = json.dumps(_text(alt), ensure_ascii=False)
        return [{"t": "RawInline", "c": ["typst", f"#box(image({json.dumps(target[0])}, alt: {text}{width}))"]}]

    def _callout(self, kind: str, attributes: dict, blocks: list[dict]) -> dict:
        title = _words(attributes.get("title", kind.capitalize()))
        if blocks and blocks[0]["t"] == "Header":
            title = blocks.pop(0)["c"][2]
        head = _element("Div", "", ["callout-title"], [{"t": "Para", "c": [{"t": "Strong", "c": title}]}])
        box = _element("Div", "", ["callout", kind], [head, *blocks])
        if self.to == "typst":
            box["c"][0][2] = [["typst:inset", "8pt"], ["typst:width", "100%"], ["typst:fill", "luma(245)"],
                              ["typst:stroke", "(left: 2pt + luma(120))"]]  # fmt: skip
        return box

    def _refer(self, element: dict) -> list[dict] | None:
        if element["t"] == "Cite":
            citations = element["c"][0]
            if any(_LABEL.fullmatch(citation["citationId"]) for citation in citations):
                links = [self._link(citation) for citation in citations]
                return [token for link in links for token in ({"t": "Str", "c": ", "}, link)][1:]
        elif element["t"] == "Link":
            self._target(element["c"][2])
        return None

    def _link(self, citation: dict) -> dict:
        label, prefix = citation["citationId"], citation["citationPrefix"]
        if label not in self.labels:
            self._problem(f"@{label} refers to nothing")
        text = self.labels.get(label, f"?@{label}")
        if prefix or citation["citationMode"]["t"] == "SuppressAuthor":
            text = text.rpartition(_NBSP)[2]
        content = [*prefix, {"t": "Str", "c": (_NBSP if prefix else "") + text}]
        return {"t": "Link", "c": [["", ["xref"], []], content, [f"#{label}", ""]]}

    def _target(self, target: list[str]) -> None:
        """Point a link to a chapter's file, or to a heading in one, at the place in the single document."""
        path, _, fragment = target[0].partition("#")
        if "://" in target[0] or not (path.endswith(".qmd") or not path):
            return
        file = os.path.normpath(Path(self.chapter.path).parent / path) if path else self.chapter.path
        key = f"{file}#{fragment}" if fragment else file
        if fragment not in self.labels and key not in self.anchors and not fragment.startswith(("sec-", "ref-", "fn")):
            self._problem(f"the link to {target[0]} leads nowhere")
        target[0] = "#" + self.anchors.get(key, fragment)


def _describe(figure: list, alt: str) -> None:
    """Give a figure's images, and what takes their place in HTML, its alternative text."""
    figure[0][2] = []
    for image in _find(figure[2], "Image"):
        own = dict(image["c"][0][2]).get("fig-alt", "") or alt
        image["c"][0][2] = [pair for pair in image["c"][0][2] if pair[0] != "fig-alt"]
        image["c"][1] = [{"t": "Str", "c": own}]
    if _find(figure[2], "RawBlock"):
        figure[2] = [{"t": "Div", "c": [["", [], [["role", "group"], ["aria-label", alt]]], figure[2]]}]


# Converting ----------------------------------------------------------------------------------------------------------


def _pandoc(text: str, *arguments: str | Path, folder: Path) -> str:
    import pypandoc

    command = [pypandoc.get_pandoc_path(), *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", cwd=folder)
    if done.returncode or "[WARNING]" in done.stderr:
        raise DraftError(f"pandoc: {done.stderr.strip()}")
    return done.stdout


def document(book: Book, chapters: Sequence[Executed], to: str, folder: Path) -> dict:
    """The whole book as one Pandoc document for "html" or "typst", with its images in a folder.

    Raises `DraftError` for a reference to nothing, a label defined twice or a float without a caption; chapters that
    are left out may be referred to.
    """
    numbering = Numbering(book, to, folder)
    read = []
    for executed in chapters:
        tree = json.loads(_pandoc(executed.markdown(book, to, folder), "-f", "markdown", "-t", "json", folder=folder))
        blocks, title = tree["blocks"], tree["meta"].get("title")
        if title is not None:
            blocks.insert(0, {"t": "Header", "c": [1, [Path(executed.chapter.path).stem, [], []], title["c"]]})
        read.append((executed.chapter, numbering.number(executed.chapter, blocks)))
    blocks = [block for chapter, found in read for block in numbering.resolve(chapter, found)]
    if numbering.problems and len(chapters) == len(book.chapters):
        raise DraftError("\n".join(numbering.problems))
    names = ("title", "subtitle", "author")
    meta = {name: book.settings["book"][name] for name in names if book.settings["book"].get(name)}
    meta["lang"] = book.settings.get("lang", "en")
    return {
        "pandoc-api-version": tree["pandoc-api-version"],
        "meta": {name: {"t": "MetaInlines", "c": _words(str(value))} for name, value in meta.items()},
        "blocks": blocks,
    }


def convert(book: Book, chapters: Sequence[Executed], to: str, folder: Path) -> str:
    """The executed chapters as the text of a self-contained HTML file, or of a Typst file whose images are in a folder."""
    settings = book.settings
    arguments: list[str | Path] = ["-f", "json", "-t", to, "--standalone", "--citeproc", "--wrap=none"]
    files = settings.get("bibliography") or []
    arguments += [f"--bibliography={book.root / file}" for file in ([files] if isinstance(files, str) else files)]
    if settings.get("csl"):
        arguments.append(f"--csl={book.root / settings['csl']}")
    arguments += ["-M", "link-citations=true", "--toc", f"--toc-depth={book.option(to, 'toc-depth', 2)}"]
    if to == "html":
        scripts = "".join(f"<script>{path.read_text('utf-8')}</script>\n" for path in
                          (assets.prepare() / "vega.js", ASSETS / "charts.js"))  # fmt: skip
        (folder / "scripts.html").write_text(scripts, encoding="utf-8")
        arguments += ["--mathml", "--embed-resources", "--section-divs", f"--css={ASSETS / 'draft.css'}"]
        arguments.append("--include-in-header=scripts.html")
    else:
        arguments.append(f"--template={ASSETS / 'draft.typ'}")
    return _pandoc(json.dumps(document(book, chapters, to, folder)), *arguments, folder=folder)


def write(book: Book, chapters: Sequence[Executed], kind: str, output: Path = OUTPUT) -> Path:
    """Write the executed chapters as a file, "html" or "pdf", into a folder. Returns its path. Raises `DraftError`."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{re.sub(r'[^A-Za-z0-9]+', '-', book.title).strip('-')}.{kind}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = convert(book, chapters, FORMATS[kind], folder)
        if kind == "html":
            path.write_text(text, encoding="utf-8")
            return path
        import typst

        source = folder / "book.typ"
        source.write_text(text, encoding="utf-8")
        try:
            typst.compile(str(source), output=str(path), root=name, font_paths=[str(assets.prepare() / "fonts")])
        except typst.TypstError as error:
            raise DraftError(f"typst: {error}") from None
    return path


def render(kinds: Sequence[str] = tuple(FORMATS), output: Path = OUTPUT, names: Sequence[str] = ()) -> list[Path]:
    """Execute the book (or the chapters named) and write it in each of the formats. Returns the files' paths."""
    book = load()
    chapters = [chapter for chapter in book.chapters if not names or chapter.path in names]
    executed = execute_all(book, chapters)
    return [write(book, executed, kind, output) for kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.draft", description=__doc__)
    parser.add_argument("--to", choices=[*FORMATS, "all"], default="all", help="what to write (default: %(default)s)")
    parser.add_argument("--output-dir", type=Path, default=OUTPUT, help="where to (default: _draft)")
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="chapters to render, as _quarto.yml names them")
    options = parser.parse_args()
    try:
        known = [chapter.path for chapter in load().chapters]
        if unknown := [name for name in options.chapters if name not in known]:
            parser.error(f"no such chapter: {', '.join(unknown)}; the book has {', '.join(known)}")
        kinds = list(FORMATS) if options.to == "all" else [options.to]
        for path in render(kinds, options.output_dir, options.chapters):
            print(path)
    except DraftError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
