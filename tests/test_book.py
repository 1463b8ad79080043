"""The whole book, executed from scratch: what must hold in every chapter, and that both editions say the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup, Tag

from src import assets, book, freshness, metrics, references, schema, timing
from src.render import NoQuarto, find_quarto
from tests.conftest import Rendered

BOOK = book.load()
CHAPTERS = [chapter.path for chapter in BOOK.chapters]
EXECUTABLE = [path for path in CHAPTERS if any(part.options is not None for part in book.parts(path))]

QUARTO_TIMEOUT_S = 600
SHORTEST_DESCRIPTION = 5
"""Words that the alternative text of a figure has at least: fewer name the chart, and say nothing of what it shows."""

UNITS = (
    r"%|percent|per cent|ms|µs|us|ns|seconds?|[kMGTPE]?(?:FLOPs?|MACs?|OPs?)(?:/s|/B)?|[kMGT]i?B(?:/s)?|[GM]Hz|W|"
    r"times|x|×|-fold|images?/s|million|billion|trillion"
)
MEASUREMENT = re.compile(rf"(?<![\w.,-])\d[\d.,\u202f]*[ \u00a0~]?(?:{UNITS})(?![\w-])")
DEFINITIONS = re.compile(rf"\b2 FLOPs|\b1 MAC\b|\b{100 * timing.CONFIDENCE:g} %\s+(?:bootstrap\s+)?interval")
"""Numbers with a unit that are agreed, not measured; the confidence of intervals must be the code's."""


def words(tag: Tag) -> str:
    return " ".join(tag.get_text().replace("\u00a0", " ").split())


def prose(path: str) -> str:
    """A chapter's text as it is typed: no cells, inline code, formulas, comments or attributes."""
    text = "\n".join(part.source for part in book.parts(path) if part.options is None)
    for pattern in (r"^---\n.*?^---\n", r"^```.*?^```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$\n]+\$", r"<!--.*?-->",
                    r"\{[#.][^}]*\}", r"\]\([^)]*\)"):  # fmt: skip
        text = re.sub(pattern, " ", text, flags=re.MULTILINE | re.DOTALL)
    return text


@pytest.fixture(scope="session")
def page(rendered: Rendered) -> BeautifulSoup:
    return BeautifulSoup(rendered.html, "html.parser")


@pytest.fixture(scope="session")
def text(page: BeautifulSoup) -> str:
    """What a reader reads: the page without scripts, styles and code."""
    copy = BeautifulSoup(str(page.body), "html.parser")
    for tag in copy.find_all(["script", "style", "pre", "code", "annotation"]):
        tag.decompose()
    return words(copy)


# The draft edition of the book


def test_every_chapter_executes_from_scratch(rendered):
    assert [executed.chapter.path for executed in rendered.chapters] == CHAPTERS
    for executed in rendered.chapters:
        cells = [part for part in executed.parts if part.options is not None]
        assert bool(cells) == (executed.chapter.path in EXECUTABLE)
        errors = [output for part in cells for output in part.outputs if output.output_type == "error"]
        assert not errors


def test_no_cell_warns(rendered):
    """A warning in a chapter is either a defect or a remark that belongs in its text."""
    for executed in rendered.chapters:
        for part in executed.parts:
            warned = [output["text"] for output in part.outputs if output.get("name") == "stderr"]
            assert not warned, f"{executed.chapter.path}:{part.line}: {warned[0]}"


def test_no_reference_is_left_unresolved(text, rendered):
    for trace in ("?@", "@fig-", "@tbl-", "@sec-", "@eq-"):
        assert trace not in text
        assert trace not in rendered.typst.replace("\\@", "@")


def test_every_citation_has_its_entry(page):
    keys = {key for tag in page.select("[data-cites]") for key in tag["data-cites"].split()}
    assert keys <= set(references.load())
    assert {f"ref-{key}" for key in keys} <= {tag["id"] for tag in page.select("#refs .csl-entry")}
    assert len(page.select("#refs")) == 1


def test_every_entry_is_cited():
    """Quarto lists the whole bibliography, since the chip table's citations reach it resolved."""
    cited = {key for path in ["index.qmd", *CHAPTERS] for key in re.findall(r"@([\w-]+)", prose(path))}
    cited |= {row[name] for row in schema.read_csv(schema.CHIPS_PATH, schema.CHIPS) for name in row if "source" in name}
    assert set(references.load()) <= cited


def test_no_markup_is_left_in_the_text(text, page):
    for pattern in (r":::", r"\{python\}", r"\{#", r"\{\.", r"\(\.\.?/", r"\]\(", r"\*\*\w", r"#\|"):
        found = re.search(rf".{{0,40}}{pattern}.{{0,40}}", text)
        assert found is None, found[0]
    assert not page.select("ol.example"), "a line that holds a reference and a full stop alone makes a list"


def test_no_python_is_left_in_the_text(text, page):
    shown = " ".join(words(tag) for tag in page.select(".cell-output")) + text
    for pattern in (r"alt\.\w*Chart", r"<Figure", r"<Axes", r"<chart>", r"object at 0x", r"\bnan\b", r"\bNaN\b",
                    r"<NA>", r"Text\('", r"np\.float", r"[({\[]'\w+'[,:\]})]"):  # fmt: skip
        found = re.search(rf".{{0,40}}{pattern}.{{0,40}}", shown)
        assert found is None, found[0]


def test_every_figure_has_a_caption_and_a_description(page, rendered):
    figures = page.select("figure[id^=fig-]")
    assert len(figures) == len(re.findall(r"<fig-[\w-]+>$", rendered.typst, re.MULTILINE))
    assert figures
    for figure in figures:
        check_figure(figure)
    assert 'alt: ""' not in rendered.typst
    assert len(re.findall(r"image\(", rendered.typst)) == len(re.findall(r"image\(.*?, alt: \"\w", rendered.typst))


def check_figure(figure: Tag) -> None:
    label = figure.get("id") or figure.parent.get("id")
    caption = re.sub(r"^Figure [\dA-Z.]+: ", "", words(figure.find("figcaption")))
    assert len(caption.split()) >= SHORTEST_DESCRIPTION, f"{label}: caption {caption!r}"
    drawn = figure.select("img, .vega-chart")
    assert drawn, f"{label}: shows nothing"
    for tag in drawn:
        described = [tag, *tag.find_parents(attrs={"aria-label": True})]
        texts = [one.get(name, "") for one in described for name in ("alt", "aria-label")]
        assert max(len(one.split()) for one in texts) >= SHORTEST_DESCRIPTION, f"{label}: description {texts}"


def test_every_chart_outside_a_figure_is_a_mistake(page):
    for tag in page.select(".vega-chart"):
        assert tag.find_parent("figure") is not None


def test_every_table_has_a_caption(page):
    for table in page.find_all("table"):
        caption = table.find("caption")
        assert caption is not None, words(table)[:80]
        assert re.match(r"Table [\dA-Z.]+: \w", words(caption)), words(caption)


def test_charts_carry_their_data(page):
    for tag in page.select(".vega-chart script"):
        assert remote_data(json.loads(tag.string)) == []


def remote_data(node: object) -> list[str]:
    """Addresses from which a chart's specification would fetch data."""
    if isinstance(node, dict):
        own = [node["url"]] if isinstance(node.get("url"), str) else []
        return own + [url for value in node.values() for url in remote_data(value)]
    return [url for value in node for url in remote_data(value)] if isinstance(node, list) else []


def test_the_page_reads_without_a_network(page):
    assert remote(page) == []


def remote(page: BeautifulSoup) -> list[str]:
    """What a page would fetch from elsewhere as it opens: links in the text are the reader's to follow."""
    names = ["script", "link", "img", "iframe", "source", "video", "audio", "object", "embed", "image", "use"]
    addresses = [
        str(tag[name])
        for tag in page.find_all(names)
        for name in ("src", "href", "srcset", "data", "xlink:href")
        if tag.has_attr(name) and "canonical" not in tag.get("rel", [])
    ]
    styles = " ".join(tag.string or "" for tag in page.find_all("style"))
    addresses += re.findall(r"(?:url\(|@import )\s*['\"]?([^'\")]+)", styles)
    return [address for address in addresses if re.match(r"(https?:)?//", address)]


# What the chapters themselves must keep


def test_intervals_have_one_confidence():
    assert metrics.CONFIDENCE == timing.CONFIDENCE  # what a chapter says of its intervals holds for all of them


@pytest.mark.parametrize("path", CHAPTERS)
def test_no_measurement_is_typed_into_the_prose(path):
    typed = MEASUREMENT.findall(DEFINITIONS.sub("", prose(path)))
    assert not typed, f"{path}: quote computed values instead of {typed}"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("It reaches 45.2 GFLOP/s.", ["45.2 GFLOP/s"]),
        ("about 3x, or 12\u00a0% more in 4 ms", ["3x", "12\u00a0%", "4 ms"]),
        ("fp32, x86, batch 64, 2023 and 224 px; a 1x1 kernel; ResNet-50 twice", []),
    ],
)
def test_typed_measurements_are_recognised(text, typed):
    assert MEASUREMENT.findall(text) == typed


@pytest.mark.parametrize("path", EXECUTABLE)
def test_a_chapter_holds_no_logic(path):
    """Cells load, call and show: what computes lives in the package, where it is tested."""
    for part in book.parts(path):
        if part.options is not None:
            logic = re.search(r"^\s*(def|class|for|while|if|try|with|lambda)\b", part.source, re.MULTILINE)
            assert logic is None, f"{path}:{part.line}: {logic[0].strip()}"


@pytest.mark.parametrize("path", EXECUTABLE)
def test_labels_of_cells_are_unique(path):
    labels = [part.options["label"] for part in book.parts(path) if part.options and "label" in part.options]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("path", EXECUTABLE)
def test_a_chapter_shows_its_digest(path, rendered):
    executed = next(executed for executed in rendered.chapters if executed.chapter.path == path)
    shown = [value for part in executed.parts for value in part.values.values()]
    assert freshness.note(path) in shown


# The frozen results that are committed


def test_frozen_results_are_fresh():
    assert freshness.stale() == [], "run `quarto render` after `python -m src.freshness --clear`, and commit _freeze"


@pytest.mark.parametrize("path", EXECUTABLE)
@pytest.mark.parametrize("name", ["html", "typ"])
def test_frozen_results_say_what_an_execution_says(path, name, rendered):
    """The prose with its values, word for word: on any machine, and without Quarto."""
    file = book.ROOT / "_freeze" / Path(path).with_suffix("") / "execute-results" / f"{name}.json"
    frozen = json.loads(file.read_text(encoding="utf-8"))["result"]["markdown"]
    executed = next(executed for executed in rendered.chapters if executed.chapter.path == path)
    for part in executed.parts:
        if part.options is None:
            for paragraph in re.split(r"\n\s*\n", re.sub(r"\A---\n.*?^---\n", "", part.evaluated(), flags=re.M | re.S)):
                assert paragraph.strip() in frozen, f"{path}:{part.line}"


# Both editions


@pytest.fixture(scope="session")
def quarto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book as Quarto renders it, in a copy of the tree."""
    try:
        program = find_quarto()
    except NoQuarto as reason:
        pytest.skip(f"Quarto is not to be had here: {reason}")
    root = tmp_path_factory.mktemp("quarto") / "book"
    passing = (".git", ".venv", "_book", "_draft", ".quarto", "__pycache__", "*_cache", ".hypothesis", "*.quarto_ipynb")
    shutil.copytree(book.ROOT, root, ignore=shutil.ignore_patterns(*passing))
    assets.prepare(root / "assets" / "generated")
    environment = {**os.environ, "QUARTO_PYTHON": sys.executable}
    done = subprocess.run([program, "render", "--metadata", "keep-typ:true"], cwd=root, env=environment, text=True,
                          capture_output=True, timeout=QUARTO_TIMEOUT_S)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    log = done.stdout + done.stderr
    assert "Unable to resolve" not in log and "not found" not in log, log[-3000:]
    return root


@pytest.fixture(scope="session")
def quarto_pages(quarto: Path) -> dict[str, BeautifulSoup]:
    """Quarto's pages, by chapter."""
    pages = {path: (quarto / "_book" / path).with_suffix(".html").read_text(encoding="utf-8") for path in CHAPTERS}
    return {path: BeautifulSoup(text, "html.parser") for path, text in pages.items()}


def floats(page: Tag) -> list[str]:
    """Each figure's and table's number and caption, citations left out: their years carry letters of their own."""
    copy = BeautifulSoup(str(page), "html.parser")
    for tag in copy.select(".citation"):
        tag.decompose()
    return sorted(words(tag) for tag in copy.find_all(["figcaption", "caption"]))


def paragraphs(page: Tag) -> list[str]:
    """The text of each paragraph, with citations, formulas and cross-references replaced by what they point to."""
    copy = BeautifulSoup(str(page), "html.parser")
    for tag in copy.select(".citation"):
        tag.replace_with(f"[@{tag['data-cites']}]")
    for tag in copy.select("a.quarto-xref, a.xref"):
        label = tag["href"].partition("#")[2]  # Quarto's links to a chapter name its page alone
        tag.replace_with(f"@{label if re.match('fig-|tbl-|eq-', label) else 'sec'}")
    for tag in copy.select("math, #refs, nav, header, .footnotes, script"):
        tag.decompose()
    return [found for tag in copy.find_all("p") if (found := words(tag))]


def xrefs(page: Tag) -> dict[str, str]:
    """How each figure, table and equation is referred to."""
    links = page.select("a.quarto-xref, a.xref")
    return {link["href"].partition("#")[2]: words(link) for link in links if re.search("#(fig|tbl|eq)-", link["href"])}


def test_quarto_gives_the_same_numbers_and_captions(page, quarto_pages):
    reference = sorted(caption for one in quarto_pages.values() for caption in floats(one.main))
    assert floats(page) == reference


def test_quarto_refers_to_floats_alike(page, quarto_pages):
    reference = {label: text for one in quarto_pages.values() for label, text in xrefs(one.main).items()}
    assert xrefs(page) == reference


def test_quarto_says_the_same_in_every_paragraph(page, quarto_pages):
    reference = sorted(one for found in quarto_pages.values() for one in paragraphs(found.main))
    assert sorted(paragraphs(page)) == reference


def test_quarto_leaves_no_reference_unresolved(quarto, quarto_pages):
    for path, found in quarto_pages.items():
        assert not found.select(".quarto-unresolved-ref"), path
        assert not [tag for tag in found.select(".citation strong") if words(tag).endswith("?")], path
        assert "?@" not in words(found.main), path
    typst = (quarto / "index.typ").read_text(encoding="utf-8")
    assert "?\\@" not in typst
    assert not re.search(r"\w\?\]\)", typst)


def test_quarto_sets_the_same_floats_on_paper(quarto, rendered):
    typst = (quarto / "index.typ").read_text(encoding="utf-8")
    pattern = re.compile(r"<((?:fig|tbl|eq)-[\w-]+)>$", re.MULTILINE)
    assert sorted(pattern.findall(typst)) == sorted(pattern.findall(rendered.typst))
    [pdf] = (quarto / "_book").glob("*.pdf")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_quartos_pages_describe_their_figures(quarto_pages):
    for found in quarto_pages.values():
        for figure in found.main.select("[id^=fig-] > figure"):
            check_figure(figure)


def test_quartos_pages_read_without_a_network(quarto_pages):
    for path, found in quarto_pages.items():
        assert remote(found) == [], path


def test_the_draft_edition_names_the_book_as_quarto_does(rendered, quarto):
    [pdf] = (quarto / "_book").glob("*.pdf")
    assert rendered.pdf.name == pdf.name
