"""The draft edition: the book without Quarto, as one self-contained HTML file and a PDF.

For machines where Quarto can't be had. Jupyter executes the same chapters (`execute`), Pandoc converts them, Typst sets
the PDF; between Pandoc's reading and its writing, `src.crossref` numbers what Quarto would number and resolves what
refers to it. It knows what these chapters use (cells and their options, inline values, cross-references, citations,
callouts, captions, alternative text) and nothing else; Quarto stays the reference.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src import assets
from src.book import Book, BookError, Chapter, Part, load, pandoc, parts
from src.crossref import Numbering, words
from src.schema import DATA_VARIABLE, ROOT

OUTPUT = ROOT / "_draft"
ASSETS = ROOT / "assets"
FORMATS = {"html": "html", "pdf": "typst"}
"""From the file that is asked for to the name of its format in ``_quarto.yml``."""

CELL_TIMEOUT_S = 600
KERNELS = 2
"""Chapters that execute at a time."""

_IMAGES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}


@dataclass
class Executed:
    """A chapter whose parts hold the outputs of its cells and the values of its inline expressions."""

    chapter: Chapter
    parts: list[Part]


def execute(chapter: Chapter | str, root: Path = ROOT, data: Path | None = None) -> Executed:
    """Execute a chapter from scratch in a kernel of its own, whose working directory is the book's folder.

    ``data`` is a folder to read in place of ``data/``. Raises `BookError` with file and line if a cell or an inline
    expression fails, or if an inline value is empty.
    """
    import nbformat.v4
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    chapter = Chapter(chapter) if isinstance(chapter, str) else chapter
    executed = Executed(chapter, parts(chapter.path, root))
    runs = [(part, nbformat.v4.new_code_cell(code)) for part in executed.parts if (code := _code(part))]
    notebook = nbformat.v4.new_notebook(cells=[cell for _, cell in runs])
    # Without a folder to look for kernels in, the kernel is this very Python with this environment's packages.
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(notebook, km=manager, timeout=CELL_TIMEOUT_S, extra_arguments=["--log-level=40"],
                            resources={"metadata": {"path": str(root)}})  # fmt: skip
    try:
        client.execute(env={**os.environ, **({DATA_VARIABLE: str(data.absolute())} if data else {})})
    except (CellControlSignal, DeadKernelError) as error:
        done = [cell.metadata.get("execution", {}).get("shell.execute_reply") for _, cell in runs]
        failed = [any(output.output_type == "error" for output in cell.outputs) for _, cell in runs]
        first = next(i for i in range(len(runs)) if failed[i] or not done[i])
        raise BookError(_failure(chapter.path, *runs[first], error)) from None
    for part, cell in runs:
        part.outputs = cell.outputs
        if part.options is None:
            part.values = dict(_values(chapter.path, part))
    return executed


def execute_all(book: Book, chapters: Iterable[Chapter] | None = None, data: Path | None = None) -> list[Executed]:
    """Execute chapters, by default all, a few at a time; in the order given. Raises `BookError` with every cause."""
    with ThreadPoolExecutor(KERNELS) as pool:
        running = [pool.submit(execute, chapter, book.root, data) for chapter in chapters or book.chapters]
    if causes := [str(error) for run in running if isinstance(error := run.exception(), BookError)]:
        raise BookError("\n".join(causes))
    return [run.result() for run in running]


def _code(part: Part) -> str:
    """What a kernel executes for a part: a cell as it stands, or the evaluation of a prose part's expressions."""
    if part.options is not None:
        return part.source if part.options.get("eval", True) else ""
    expressions = {expression: expression for expression, _ in part.expressions()}
    values = f"{{'application/json': get_ipython().user_expressions({expressions!r})}}"
    return f"__import__('IPython').display.display({values}, raw=True)" if expressions else ""


def _failure(path: str, part: Part, cell: dict, error: Exception) -> str:
    """One line for a cell that failed, at the line of the cell that raised."""
    for output in cell.outputs:
        if output.output_type == "error":
            trace = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback))
            lines = re.findall(r"Cell In\[\d+\], line (\d+)", trace) or ["1"]
            return f"{path}:{part.line + int(lines[0]) - 1}: {output.ename}: {output.evalue}"
    return f"{path}:{part.line}: the cell did not finish: {error or type(error).__name__}"


def _values(path: str, part: Part) -> Iterator[tuple[str, str]]:
    """The Markdown of each inline expression, as Quarto inserts it: Markdown raw, a string escaped, else the repr."""
    results = part.outputs[0].data["application/json"]
    for expression, line in part.expressions():
        result = results[expression]
        if result["status"] == "error":
            raise BookError(f"{path}:{line}: `{expression}`: {result['ename']}: {result['evalue']}")
        value = result["data"].get("text/markdown")
        if value is None:
            value = result["data"]["text/plain"]
            if value[:1] in ("'", '"') and value[-1] == value[0]:
                value = re.sub(r"([\\`*_{}\[\]()>#+\-.!])", r"\\\1", value[1:-1])
        if not value.strip():
            raise BookError(f"{path}:{line}: `{expression}`: must not be empty")
        yield expression, value


def markdown(executed: Executed, book: Book, to: str, folder: Path) -> str:
    """An executed chapter as Pandoc's Markdown for "html" or "typst"; its images are written into a folder."""
    return "".join(
        part.evaluated() if part.options is None else _cell(part, book, to, folder / f"{executed.chapter.stem}-{index}")
        for index, part in enumerate(executed.parts)
    )


def _cell(part: Part, book: Book, to: str, path: Path) -> str:
    """What a cell shows: its code (folded in HTML) and its outputs, in a float if it is labelled as one."""

    def option(name: str, default: Any = True) -> Any:
        return part.options.get(name, book.option(to, name, default))

    if option("include") is False:
        return ""
    code, shown = "", []
    if option("echo") is not False:
        lines = [line for line in part.source.splitlines() if not line.startswith("#|")]
        code = _fenced("\n".join(lines).strip("\n"), "python")
        if to == "html" and (fold := option("code-fold")) is not False:
            opening = f"<details class='code-fold'{' open' * (fold == 'show')}>"
            summary = f"{opening}<summary>{option('code-summary', 'Code')}</summary>"
            code = _fenced(summary, "{=html}") + code + _fenced("</details>", "{=html}")
        code = _division("{.cell-code}", code)
    if option("output") is not False:
        for i, output in enumerate(part.outputs):
            if option("warning") or output.get("name") != "stderr":
                shown.append(_output(output, option("output") == "asis", to, Path(f"{path}-{i}")))
    label = str(part.options.get("label", ""))
    if caption := part.options.get(f"{label[:3]}-cap"):
        alt = part.options.get("fig-alt", "").replace("\\", "\\\\").replace('"', '\\"')
        shown = [_division(f'{{#{label} fig-alt="{alt}"}}', "".join(shown) + f"\n{caption}\n")]
    return "\n" + code + "".join(shown) + "\n"


def _output(output: dict, asis: bool, to: str, path: Path) -> str:
    """One output of a cell, in the richest form that the format can show."""
    if output["output_type"] == "stream":
        if asis and output["name"] == "stdout":
            return f"\n{output['text']}\n"
        return _division(f"{{.cell-output .{output['name']}}}", _fenced(output["text"].rstrip()))
    data = output["data"]
    kinds = ["text/html"] * (to == "html") + ["text/markdown", *_IMAGES, "text/plain"]
    kind = next((kind for kind in kinds if kind in data), None)
    if kind is None:
        return ""
    if kind in _IMAGES:
        path = path.with_suffix("." + _IMAGES[kind])
        path.write_bytes(data[kind].encode() if kind == "image/svg+xml" else base64.b64decode(data[kind]))
        content = f"\n![]({path.name})\n"
    elif kind == "text/markdown":
        content = f"\n{data[kind]}\n"
    else:
        content = _fenced(data[kind], "{=html}" if kind == "text/html" else "")
    return content if asis else _division("{.cell-output}", content)


def _division(attributes: str, content: str) -> str:
    return f"\n::: {attributes}\n{content}\n:::\n"


def _fenced(text: str, language: str = "") -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"\n{fence}{language}\n{text}\n{fence}\n"


def document(book: Book, chapters: Sequence[Executed], to: str, folder: Path) -> dict:
    """The executed chapters as one Pandoc document for "html" or "typst", with its images in a folder.

    Raises `BookError` for a reference to nothing, a label defined twice or a float without a caption, unless chapters
    are left out.
    """
    numbering, numbered = Numbering(book, to, folder), []
    for executed in chapters:
        text = markdown(executed, book, to, folder)
        tree = json.loads(pandoc(text, "--from=markdown", "--to=json", folder=folder, name=executed.chapter.path))
        if title := tree["meta"].get("title"):
            tree["blocks"].insert(0, {"t": "Header", "c": [1, [executed.chapter.stem, [], []], title["c"]]})
        numbered.append((executed.chapter, numbering.number(executed.chapter, tree["blocks"])))
    blocks = [block for chapter, found in numbered for block in numbering.resolve(chapter, found)]
    if numbering.problems and len(chapters) == len(book.chapters):
        raise BookError("\n".join(numbering.problems))
    about = {name: book.settings["book"].get(name) for name in ("title", "subtitle", "author")}
    about["lang"] = book.settings.get("lang", "en")
    meta = {name: {"t": "MetaInlines", "c": words(str(value))} for name, value in about.items() if value}
    return {"pandoc-api-version": tree["pandoc-api-version"], "meta": meta, "blocks": blocks}


def convert(book: Book, chapters: Sequence[Executed], to: str, folder: Path) -> str:
    """The executed chapters as a self-contained HTML page, or as a Typst source with its images in a folder."""
    files = book.settings.get("bibliography") or []
    arguments = [f"--bibliography={book.root / file}" for file in ([files] if isinstance(files, str) else files)]
    if style := book.settings.get("csl"):
        arguments.append(f"--csl={book.root / style}")
    arguments += ["--toc", f"--toc-depth={book.option(to, 'toc-depth', 2)}", "--metadata=link-citations"]
    if to == "html":
        scripts = [path.read_text(encoding="utf-8") for path in (assets.prepare() / "vega.js", ASSETS / "charts.js")]
        (folder / "head.html").write_text("".join(f"<script>{text}</script>\n" for text in scripts), encoding="utf-8")
        arguments += ["--mathml", "--section-divs", "--embed-resources", f"--css={ASSETS / 'draft.css'}"]
        arguments.append("--include-in-header=head.html")
    else:
        arguments.append(f"--template={ASSETS / 'draft.typ'}")
    source = json.dumps(document(book, chapters, to, folder))
    return pandoc(
        source, "--from=json", f"--to={to}", "--standalone", "--wrap=none", "--citeproc", *arguments, folder=folder
    )


def write(book: Book, chapters: Sequence[Executed], kind: str, output: Path = OUTPUT) -> Path:
    """Write the executed chapters as a file, "html" or "pdf", into a folder. Returns its path. Raises `BookError`."""
    import typst

    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{re.sub(r'[^A-Za-z0-9]+', '-', book.title).strip('-')}.{kind}"
    with tempfile.TemporaryDirectory() as folder:
        text = convert(book, chapters, FORMATS[kind], Path(folder))
        if kind == "html":
            path.write_text(text, encoding="utf-8")
            return path
        source = Path(folder, "book.typ")
        source.write_text(text, encoding="utf-8")
        try:
            typst.compile(str(source), output=str(path), root=folder, font_paths=[str(assets.prepare() / "fonts")])
        except typst.TypstError as error:
            raise BookError(f"typst: {error}") from None
    return path


def render(kinds: Sequence[str] = tuple(FORMATS), output: Path = OUTPUT, names: Sequence[str] = ()) -> list[Path]:
    """Execute the book, or the chapters named, and write it in each format. Returns the files' paths."""
    book = load()
    executed = execute_all(book, [chapter for chapter in book.chapters if not names or chapter.path in names])
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
        for path in render([*FORMATS] if options.to == "all" else [options.to], options.output_dir, options.chapters):
            print(path)
    except BookError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
