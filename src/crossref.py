"""Numbers and resolves a book's cross-references in Pandoc's tree, as Quarto does in its own filters.

An element of the tree is {"t": kind, "c": content}; what a kind's content holds, and in which order, is defined at
https://hackage.haskell.org/package/pandoc-types.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.book import Book, Chapter

_KINDS = {"fig": "Figure", "tbl": "Table", "eq": "Equation", "sec": "Section"}
_LABEL = re.compile(r"(fig|tbl|eq|sec)-[\w-]+")
_CALLOUTS = {"callout-note", "callout-tip", "callout-warning", "callout-caution", "callout-important"}
_NBSP = "\u00a0"


def _walk(node: Any, visit: Callable[[dict], list[dict] | None]) -> Any:
    """Visit every element in reading order. ``visit`` may change one in place, or return those that replace it."""
    if isinstance(node, list):
        walked: list = []
        for item in node:
            new = visit(item) if isinstance(item, dict) and "t" in item else None
            walked += [_walk(item, visit)] if new is None else _walk(new, visit)
        return walked
    return {key: _walk(value, visit) for key, value in node.items()} if isinstance(node, dict) else node


def _find(node: Any, *kinds: str) -> list[dict]:
    """Every element of some kinds below a node, in reading order."""
    found: list[dict] = []
    _walk(node, lambda element: found.append(element) if element["t"] in kinds else None)
    return found


def words(text: str) -> list[dict]:
    """Plain text as Pandoc's inlines."""
    return [token for word in text.split(" ") for token in ({"t": "Space"}, {"t": "Str", "c": word})][1:]


def _block(kind: str, classes: Sequence[str], content: list, identifier: str = "", attributes: Sequence = ()) -> dict:
    return {"t": kind, "c": [[identifier, list(classes), [list(pair) for pair in attributes]], content]}


class Numbering:
    """Numbers a book's headings, figures, tables and equations as Quarto does, and resolves what refers to them.

    `number` takes the chapters' blocks one after another; then `resolve` turns references into links. ``problems``
    collects what is wrong, with the chapter where it stands. Images are brought into ``folder``.
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

    def _label(self, label: str, name: str, number: str = "") -> str:
        """Register what a label is referred to as; without a number, count one more of its kind: "3.2", or "2"."""
        if not number:
            kind = label.partition("-")[0]
            self.counts[kind] += 1
            number = f"{self.chapter.number}.{self.counts[kind]}".removeprefix(".")
        if label in self.labels:
            self._problem(f"@{label} is defined twice")
        self.labels[label] = f"{name}{_NBSP}{number}"
        return number

    def _visit(self, element: dict) -> list[dict] | None:
        kind, content = element["t"], element.get("c")
        if kind == "Table":  # its columns take what they need: Pandoc's widths are the Markdown's, citations and all
            content[2] = [[alignment, {"t": "ColWidthDefault"}] for alignment, _ in content[2]]
        if kind == "Header":
            self._header(content)
        elif kind in ("Figure", "Table") and _LABEL.fullmatch(content[0][0]):
            self._float(kind, content)
        elif kind in ("Para", "Plain"):
            element["c"] = self._equations(content)
        elif kind == "Image":
            return self._image(content)
        elif kind == "Div" and _CALLOUTS.intersection(content[0][1]):
            return [self._callout(*content)]
        elif kind == "Div" and re.match("(fig|tbl)-", content[0][0]):
            return self._labelled(*content)
        return None

    def _header(self, content: list) -> None:
        level, (identifier, classes, _), inlines = content
        number, name = "", "Section"
        if self.chapter.number and "unnumbered" not in classes:
            self.levels[level - 1 :] = [self.levels[level - 1] + 1, *[0] * (6 - level)]
            number = ".".join([self.chapter.number, *map(str, self.levels[1:level])])
            if level == 1:
                name = "Chapter" if number.isdigit() else "Appendix"
            shown = f"{name}{_NBSP}{number} —" if name == "Appendix" else number
            inlines[:0] = [_block("Span", ["header-section-number"], words(shown)), {"t": "Space"}]
        if not _LABEL.fullmatch(identifier):  # an identifier of Pandoc's, unique in its chapter alone
            content[1][0] = f"{self.chapter.stem}-{identifier}"
            self.anchors[f"{self.chapter.path}#{identifier}"] = content[1][0]
        elif number:
            self._label(identifier, name, number)
        self.anchors.setdefault(self.chapter.path, content[1][0])

    def _float(self, kind: str, content: list) -> None:
        """Put the number before a figure's or a table's caption, and describe a figure's images."""
        (label, _, pairs), (_, caption) = content[:2]
        name = _KINDS[label[:3]]
        inlines = caption[0]["c"] if caption else []
        if not inlines:
            self._problem(f"@{label} has no caption")
        number = self._label(label, name)
        caption[:1] = [{"t": "Plain", "c": [*words(f"{name}{_NBSP}{number}: "), *inlines]}]
        if kind == "Table":
            return
        alt = dict(pairs).get("fig-alt", "")
        content[0][2] = []
        for image in _find(content[2], "Image"):
            alt = alt or dict(image["c"][0][2]).pop("fig-alt", "")
            image["c"][0][2] = [pair for pair in image["c"][0][2] if pair[0] != "fig-alt"]
            image["c"][1] = words(alt)
        if _find(content[2], "RawBlock"):  # an interactive chart
            content[2] = [_block("Div", [], content[2], attributes=[("role", "img"), ("aria-label", alt)])]

    def _labelled(self, attributes: list, blocks: list[dict]) -> list[dict]:
        """A division that is labelled as a float: its code, and then its content with the last paragraph as caption."""
        label, _, pairs = attributes
        is_caption = blocks and blocks[-1]["t"] == "Para" and {token["t"] for token in blocks[-1]["c"]} != {"Image"}
        caption = blocks.pop()["c"] if is_caption else []
        captions = [{"t": "Plain", "c": caption}]
        code = [block for block in blocks if block["t"] == "Div" and "cell-code" in block["c"][0][1]]
        blocks = [block for block in blocks if block not in code]
        tables = _find(blocks, "Table")
        if label.startswith("tbl-") and len(tables) == 1:
            tables[0]["c"][0][0], tables[0]["c"][1][1] = label, captions
            return [*code, tables[0]]
        return [*code, {"t": "Figure", "c": [[label, [label[:3]], pairs], [None, captions], blocks]}]

    def _equations(self, inlines: list[dict]) -> list[dict]:
        """Inlines in which each display formula that a label follows carries its number."""
        done: list[dict] = []
        for inline in inlines:
            match = re.fullmatch(r"\{#(eq-[\w-]+)\}(.*)", inline["c"]) if inline["t"] == "Str" else None
            while match and done and done[-1]["t"] in ("Space", "SoftBreak"):
                done.pop()
            if match and done and done[-1]["t"] == "Math":
                formula = done.pop()
                formula["c"][1] += rf" \qquad\text{{({self._label(match[1], 'Equation')})}}"
                done += [_block("Span", ["equation"], [formula], match[1]), *words(match[2])]
            else:
                done.append(inline)
        return done

    def _image(self, content: list) -> list[dict] | None:
        """Bring a chapter's own image into the folder; for Typst, whose writer drops it, add the alternative text."""
        (_, _, pairs), alt, target = content
        source = self.book.root / Path(self.chapter.path).parent / target[0]
        if source.is_file():
            target[0] = f"{self.chapter.stem}-{source.name}"
            shutil.copyfile(source, self.folder / target[0])
        if self.to != "typst":
            return None
        text = "".join(token.get("c", " ") for token in _find(alt, "Str", "Space", "SoftBreak"))
        width = f", width: {dict(pairs)['width']}" if "width" in dict(pairs) else ""
        image = f"#box(image({json.dumps(target[0])}, alt: {json.dumps(text, ensure_ascii=False)}{width}))"
        return [{"t": "RawInline", "c": ["typst", image]}]

    def _callout(self, attributes: list, blocks: list[dict]) -> dict:
        _, classes, pairs = attributes
        kind = next(name for name in classes if name in _CALLOUTS).removeprefix("callout-")
        title = words(dict(pairs).get("title", kind.capitalize()))
        if blocks and blocks[0]["t"] == "Header":
            title = blocks.pop(0)["c"][2]
        head = _block("Div", ["callout-title"], [{"t": "Plain", "c": [{"t": "Strong", "c": title}]}])
        # The Typst writer passes on such attributes; the style sheet sees to HTML.
        look = {"inset": "8pt", "width": "100%", "fill": "luma(245)", "stroke": "(left: 2pt + luma(120))"}
        styles = [(f"typst:{name}", value) for name, value in look.items()] if self.to == "typst" else []
        return _block("Div", ["callout", kind], [head, *blocks], attributes=styles)

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
            text = _NBSP * bool(prefix) + text.rpartition(_NBSP)[2]
        return {"t": "Link", "c": [["", ["xref"], []], [*prefix, {"t": "Str", "c": text}], [f"#{label}", ""]]}

    def _target(self, target: list[str]) -> None:
        """Point a link to a chapter's file, or to a heading in one, at its place in the one document."""
        path, _, fragment = target[0].partition("#")
        if fragment in self.labels:
            target[0] = f"#{fragment}"
        elif path.endswith(".qmd") or not path:
            file = os.path.normpath(Path(self.chapter.path).parent / path) if path else self.chapter.path
            anchor = self.anchors.get(f"{file}#{fragment}" if fragment else file)
            if anchor is None and not _LABEL.fullmatch(fragment):
                self._problem(f"the link to {target[0]} leads nowhere")
            target[0] = f"#{anchor or fragment}"
