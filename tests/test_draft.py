"""The draft edition, on a small book of its own whose every number is known beforehand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from src import book, crossref, draft
from src.book import BookError, Chapter
from tests.conftest import Rendered, render

SETTINGS = """
book:
  title: "A Book: of tests"
  subtitle: "and a subtitle"
  chapters: [index.qmd, chapters/one.qmd, chapters/two.qmd, references.qmd]
  appendices: [chapters/more.qmd]
bibliography: references.bib
execute: {warning: false}
format:
  html: {code-fold: true}
  typst: {echo: false}
"""

BIBLIOGRAPHY = """
@article{williams, title={Roofline}, author={Williams, Samuel}, journal={Communications}, year={2009}}
@misc{maker, title={Datasheet}, author={{Maker}}, year={2023}}
"""

INDEX = """
# Preface {.unnumbered}

Before: `{python} "value" in dir()`. See @fig-one, @tbl-two, @eq-roof, @sec-two, @sec-one-a, @sec-more,
@fig-more, @sec-more-a.

```{python}
#| include: false
value = "a*b_"
```

After: `{python} value`.

::: {#tbl-index}
| a |
|---|
| 1 |

In the index.
:::

See @tbl-index, [one](chapters/one.qmd), [two](chapters/two.qmd#sec-two), [plain](chapters/one.qmd#plain-heading).
"""

ONE = r"""---
title: "One"
---

```{python}
#| include: false
class Text(str):
    def _repr_markdown_(self):
        return str(self)

class Chart:
    def _repr_mimebundle_(self, include=None, exclude=None):
        svg = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>"
        html = '<div class="vega-chart"><script type="application/json">{"mark": "<b>"}</script></div>'
        return {"text/html": html, "image/svg+xml": svg, "text/plain": "<chart>"}

alt = Text("Alt with 12 & [brackets]")
```

@williams wrote; so did others [see @maker, p. 3; @williams].

## Roofs {#sec-one-a}

::: {#fig-one fig-alt="`{python} alt`"}
```{python}
shown_code = Chart()
shown_code
```
Caption with `{python} Text("**bold**")` and [@maker].
:::

```{python}
#| label: fig-cell
#| fig-cap: "A cell's caption"
#| fig-alt: 'A "cell"'
Chart()
```

### Deeper {#sec-deep}

@fig-one and @fig-cell; [@fig-one; @fig-cell]; -@fig-one; [Figures @fig-one]; @sec-deep.

::: {#tbl-one}
```{python}
Text("| a | b |\n|---|---|\n| 1 | 2 |\n")
```

From a cell.
:::

| c |
|---|
| 1 |

: From prose {#tbl-two}

$$
P = \min(\pi, \beta I)
$$ {#eq-roof}

::: {.callout-warning title="Mind this"}
A warning about @fig-one.
:::

::: {.callout-note}
## A heading
A note.
:::

```{python}
#| label: streams
import sys
print("to " + "stdout")
print("to " + "stderr", file=sys.stderr)
"the result"
```

```{python}
#| output: asis
#| echo: false
print("*as it is*")
```

```{python}
#| output: false
#| code-summary: "Hidden output"
print("never " + "shown")
```

```{python}
#| eval: false
raise RuntimeError("not evaluated")
```

## Aside {.unnumbered}

## Plain heading

[Back](#aside)
"""

TWO = """
# Two {#sec-two}

![Drawn [@maker]](../picture.svg){#fig-drawn fig-alt="A square"}

@fig-drawn, @fig-one, @sec-one-a, `{python} "shown_code" in dir()`.
"""

REFERENCES = """
# References {.unnumbered}

::: {#refs}
:::
"""

MORE = """
# More {#sec-more}

## Part {#sec-more-a}

::: {#fig-more fig-alt="Another square"}
![](../picture.svg)

In the appendix.
:::

$$ a = b $$ {#eq-more}

@eq-more
"""

SQUARE = "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><rect width='9' height='9'/></svg>"


def write_book(root: Path, chapters: dict[str, str], settings: str = SETTINGS) -> Path:
    files = {"_quarto.yml": settings, "references.bib": BIBLIOGRAPHY, "picture.svg": SQUARE, **chapters}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def fixture_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chapters = {
        "index.qmd": INDEX, "chapters/one.qmd": ONE, "chapters/two.qmd": TWO, "references.qmd": REFERENCES,
        "chapters/more.qmd": MORE,
    }  # fmt: skip
    return write_book(tmp_path_factory.mktemp("book"), chapters)


@pytest.fixture(scope="module")
def small(fixture_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return render(fixture_root, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def page(small: Rendered) -> BeautifulSoup:
    return BeautifulSoup(small.html, "html.parser")


def single(tmp_path: Path, text: str) -> Path:
    """A book of one chapter."""
    settings = 'book: {title: "T", chapters: [only.qmd]}\nbibliography: references.bib\nformat: {html: {}, typst: {}}\n'
    return write_book(tmp_path, {"only.qmd": text}, settings)


def convert(root: Path, to: str = "html") -> str:
    whole = book.load(root)
    (root / to).mkdir()
    return draft.convert(whole, draft.execute_all(whole), to, root / to)


def words(tag) -> str:
    return " ".join(tag.get_text().replace("\u00a0", " ").split())


# What the book consists of


def test_chapters_have_the_numbers_that_quarto_gives_them(fixture_root):
    numbers = {chapter.path: chapter.number for chapter in book.load(fixture_root).chapters}
    assert numbers == {
        "index.qmd": "", "chapters/one.qmd": "1", "chapters/two.qmd": "2", "references.qmd": "",
        "chapters/more.qmd": "A",
    }  # fmt: skip


def test_a_missing_chapter_is_named(tmp_path):
    write_book(tmp_path, {"index.qmd": INDEX})
    with pytest.raises(BookError, match=r"_quarto\.yml: chapters: chapters/one\.qmd"):
        book.load(tmp_path)


def test_parts_keep_their_lines_and_options(tmp_path):
    text = "a\n\n```{python}\n#| label: x\n#| echo: false\n1\n```\n\n```` {python}\n'```'\n````\nb `{python} c`\n"
    (tmp_path / "c.qmd").write_text(text)
    parts = book.parts("c.qmd", tmp_path)
    # Line 3 opens the first cell and line 9 the second, so that their code starts on lines 4 and 10.
    assert [(part.line, part.options) for part in parts] == [
        (1, None), (4, {"label": "x", "echo": False}), (8, None), (10, {}), (12, None),
    ]  # fmt: skip
    assert parts[3].source == "'```'\n"
    assert list(parts[4].expressions()) == [("c", 12)]


def test_options_that_are_not_yaml_are_reported_with_their_line(tmp_path):
    (tmp_path / "c.qmd").write_text("a\n\n```{python}\n#| label: [x\n1\n```\n")
    with pytest.raises(BookError, match=r"c\.qmd:4: the cell's options are not YAML"):
        book.parts("c.qmd", tmp_path)


# Executing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\n```{python}\n#| label: x\nx = 1\n1 / 0\n```\n", "only.qmd:6: ZeroDivisionError: division by zero"),
        ("```{python}\ndef f():\n    raise KeyError(1)\n```\n\n```{python}\nf()\n```\n", "only.qmd:7: KeyError: 1"),
        ("```{python}\nx = (\n```\n", "only.qmd:2: SyntaxError"),
        ("a\n\nb `{python} absent`\n", "only.qmd:3: `absent`: NameError"),
        ("a\nb `{python} ''`\n", "only.qmd:2: `''`: must not be empty"),
        ("```{python}\nimport os; os._exit(1)\n```\n", "only.qmd:2: the cell did not finish"),
    ],
)  # fmt: skip
def test_a_failure_names_file_and_line(tmp_path, text, message):
    root = single(tmp_path, text)
    with pytest.raises(BookError, match=re.escape(message)):
        draft.execute("only.qmd", root)


def test_every_failing_chapter_is_reported(tmp_path):
    settings = 'book: {title: "T", chapters: [a.qmd, b.qmd]}\n'
    write_book(tmp_path, {"a.qmd": "`{python} p`", "b.qmd": "`{python} q`"}, settings)
    with pytest.raises(BookError) as raised:
        draft.execute_all(book.load(tmp_path))
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == ["a.qmd", "b.qmd"]


def test_a_chapter_runs_in_the_books_folder_on_this_python_and_on_the_data_it_is_given(tmp_path):
    values = {"os.getcwd()": tmp_path, "sys.executable": sys.executable, "os.environ['ROOFLINE_DATA']": tmp_path / "x"}
    prose = " ".join(f"`{{python}} {expression}`" for expression in values)
    root = single(tmp_path, f"```{{python}}\nimport os, sys\n```\n\n{prose}\n")
    executed = draft.execute("only.qmd", root, data=tmp_path / "x")
    shown = [value.replace("\\", "") for value in executed.parts[-1].values.values()]
    assert shown == list(map(str, values.values()))


def test_the_data_folder_can_be_replaced():
    code = "from src import schema; print(schema.CHIPS_PATH, schema.MACHINES_PATH)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"ROOFLINE_DATA": "/other"}, capture_output=True, text=True, cwd=book.ROOT
    )
    assert done.stdout.split() == ["/other/chips.csv", "/other/machines"]


def test_values_are_inserted_as_quarto_inserts_them(page):
    text = words(page.find(id="index-preface"))
    assert "Before: False." in text  # evaluated before the cell below it
    assert "After: a*b_." in text  # a string, unquoted and escaped: no emphasis
    assert page.find("strong", string="bold") is not None  # Markdown, as it is


def test_chapters_share_no_state(page):
    assert "False" in words(page.find(id="sec-two"))


# What is shown


def test_cells_show_what_their_options_say(page):
    text = words(page.find(id="one-one"))
    shown = {"to stdout", "'the result'", "as it is", "shown_code = Chart()"}
    hidden = {"to stderr", "class Text", "never shown", "#|", 'print("*as', "<chart>"}
    assert {word for word in shown if word in text} == shown
    assert {word for word in hidden if word in text} == set()
    assert page.find("em", string="as it is") is not None
    assert "Hidden output" in [words(tag) for tag in page.find_all("summary")]
    assert 'raise RuntimeError("not evaluated")' in text


def test_code_is_folded_in_html_and_absent_from_paper(page, small):
    assert all(code.find_parent("details") for code in page.select("pre.python"))
    assert "shown_code" not in small.typst
    assert "to stdout" in small.typst


def test_a_figures_code_stands_before_it(page):
    figure = page.find(id="fig-one")
    assert figure.find("details") is None
    assert figure.find_previous_sibling().find("details") is not None


def test_charts_are_interactive_in_html_and_static_on_paper(page, small):
    figure = page.find(id="fig-one")
    assert json.loads(figure.find("script").string) == {"mark": "<b>"}
    assert figure.find("img") is None
    assert "vega-chart" not in small.typst
    assert small.typst.count("one-") >= 2  # both cells' images, named after the chapter
    assert len([tag for tag in page.find_all("script") if "vegaEmbed=" in (tag.string or "")]) == 1


def test_every_figure_is_described(page, small):
    alts = {"fig-one": "Alt with 12 & [brackets]", "fig-cell": 'A "cell"', "fig-drawn": "A square",
            "fig-more": "Another square"}  # fmt: skip
    for label, alt in alts.items():
        assert page.find(id=label).find(attrs={"aria-label": alt}) is not None
        assert f"alt: {json.dumps(alt)}" in small.typst
    assert page.find(id="fig-drawn").find("img")["alt"] == "A square"


def test_callouts_have_titles(page, small):
    assert [words(tag) for tag in page.select(".callout-title")] == ["Mind this", "A heading"]
    assert [words(tag.find_all("p")[-1]) for tag in page.select(".callout")] == [
        "A warning about Figure 1.1.", "A note.",
    ]  # fmt: skip
    assert small.typst.count("stroke: (left:") == 2


def test_the_page_needs_nothing_else(page):
    for tag in page.find_all(["script", "link", "img", "iframe", "source"]):
        address = tag.get("src") or tag.get("href") or "data:"
        assert address.startswith("data:"), address


def test_the_pdf_is_written_under_the_books_title(small):
    assert small.pdf.name == "A-Book-of-tests.pdf"
    assert small.pdf.read_bytes().startswith(b"%PDF")


# Numbers and references, as Quarto 1.10 gives them for the same chapters


def test_headings_are_numbered(page):
    assert [words(tag) for tag in page.find_all(["h1", "h2", "h3"], class_=lambda name: name != "title")] == [
        "Preface", "1 One", "1.1 Roofs", "1.1.1 Deeper", "Aside", "1.2 Plain heading", "2 Two", "References",
        "Appendix A — More", "A.1 Part",
    ]  # fmt: skip


def test_floats_are_numbered_within_their_chapter(page):
    captions = [words(tag) for tag in page.find_all(["figcaption", "caption"])]
    assert captions == [
        "Table 1: In the index.",
        "Figure 1.1: Caption with bold and (Maker 2023).",
        "Figure 1.2: A cell’s caption",
        "Table 1.1: From a cell.",
        "Table 1.2: From prose",
        "Figure 2.1: Drawn (Maker 2023)",
        "Figure A.1: In the appendix.",
    ]


def test_references_name_what_they_refer_to(page):
    section = page.find(id="sec-deep")
    assert words(section.find("p")) == (
        "Figure 1.1 and Figure 1.2; Figure 1.1, Figure 1.2; 1.1; Figures 1.1; Section 1.1.1."
    )
    assert words(page.find(id="index-preface").find("p")).endswith(
        "See Figure 1.1, Table 1.2, Equation 1.1, Chapter 2, Section 1.1, Appendix A, Figure A.1, Section A.1."
    )
    for link in page.select("a.xref"):
        assert page.find(id=link["href"][1:]) is not None, link["href"]


def test_equations_carry_their_number(page):
    assert [words(tag.find("mtext")) for tag in page.select("span.equation")] == ["(1.1)", "(A.1)"]


def test_links_between_chapters_lead_into_the_page(page):
    targets = {words(link): link["href"] for link in page.select("section a")}
    assert {name: targets[name] for name in ("one", "two", "plain", "Back")} == {
        "one": "#one-one", "two": "#sec-two", "plain": "#one-plain-heading", "Back": "#one-aside",
    }  # fmt: skip
    assert {target[1:] for target in targets.values() if target[0] == "#"} <= {tag["id"] for tag in page.select("[id]")}


def test_citations_are_resolved_in_one_list(page, small):
    assert "Williams (2009) wrote; so did others (see Maker 2023, 3; Williams 2009)." in words(page.find(id="one-one"))
    assert [tag["id"] for tag in page.select("#refs .csl-entry")] == ["ref-maker", "ref-williams"]
    assert small.typst.count("<ref-maker>") >= 1


def test_both_formats_say_the_same(page, small):
    plain = re.sub(r"#strong\[(.*?)\]|#link\(.*?\)\[(.*?)\]|\\(?=\()", r"\1\2", small.typst.replace("~", " "))
    for caption in map(words, page.find_all(["figcaption", "caption"])):
        assert caption.replace("’", "'") in plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# T\n\nSee @fig-absent.", "only.qmd: @fig-absent refers to nothing"),
        ("# T\n\n[x](other.qmd)", "only.qmd: the link to other.qmd leads nowhere"),
        ("# T\n\n[x](#absent)", "only.qmd: the link to #absent leads nowhere"),
        ("# T\n\n## A {#sec-a}\n\n## B {#sec-a}", "only.qmd: [WARNING] Duplicate identifier 'sec-a'"),
        ("# T\n\n![a](picture.svg){#fig-a}\n\n![b](picture.svg){#fig-a}", "only.qmd: @fig-a is defined twice"),
        ('# T\n\n::: {#fig-a fig-alt="x"}\n![](picture.svg)\n:::', "only.qmd: @fig-a has no caption"),
        ("# T\n\n[@nobody]", "citation nobody not found"),
        ("# T\n\n$\\frac{$", "pandoc"),
        ("# T\n\n![x](absent.png)", "absent.png"),
    ],
)
def test_what_leads_nowhere_stops_the_render(tmp_path, text, message):
    with pytest.raises(BookError, match=re.escape(message)):
        convert(single(tmp_path, text))


def test_a_part_of_the_book_may_refer_to_the_rest(small, tmp_path):
    page = draft.convert(small.book, [small.chapters[2]], "html", tmp_path)
    assert "?@fig-one" in page
    assert "Figure\u00a02.1" in page


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("'a'", "a"), ("'1.5 ms'", r"1\.5 ms"), ("3.25", "3.25"), ("-1", "-1"), ('"it\'s"', "it's"), ("None", "None"),
    ],
)  # fmt: skip
def test_plain_values(tmp_path, text, markdown):
    executed = draft.execute("only.qmd", single(tmp_path, f"x `{{python}} {text}`"))
    assert executed.parts[0].values == {text: markdown}


def test_unnumbered_chapters_number_their_floats_alone():
    numbering = crossref.Numbering(book.Book(Path(), {}, ()), "html", Path())
    figure = {"t": "Figure", "c": [["fig-a", [], []], [None, [{"t": "Plain", "c": crossref.words("C")}]], []]}
    [numbered] = numbering.number(Chapter("index.qmd"), [figure])
    assert numbered["c"][1][1][0]["c"][:2] == [{"t": "Str", "c": "Figure\u00a01:"}, {"t": "Space"}]
    assert numbering.labels == {"fig-a": "Figure\u00a01"}
