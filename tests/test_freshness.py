"""Which chapters become stale when code or data change: exactly those that depend on them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from src import freshness, schema

FILES = {
    "_quarto.yml": "book: {title: T, chapters: [index.qmd, chapters/chips.qmd, chapters/latency.qmd, references.qmd]}\n"
    "format: {html: {}, typst: {}}\n",
    "index.qmd": "# I\n\n```{python}\n%matplotlib inline\nfrom src.findings import chips as findings\n```\n",
    "chapters/chips.qmd": "```{python}\nfrom src import chips, freshness\n```\n\n```{python}\nimport src.plot\n```\n",
    "chapters/latency.qmd": "```{python}\nfrom src import store\n```\n",
    "references.qmd": "# R\n",
    "src/__init__.py": "",
    "src/schema.py": "CHIPS_PATH = MACHINES_PATH = None\n",
    "src/findings/__init__.py": "",
    "src/findings/chips.py": "def f():\n    from .. import chips\n    return chips\n",
    "src/chips.py": "from src.schema import CHIPS_PATH\n",
    "src/store.py": "from src import schema\n\ndef read(path=None):\n    return path or schema.MACHINES_PATH\n",
    "src/plot.py": "import json\n",
    "src/freshness.py": "from src import store\n",
    "src/unused.py": "",
    "data/chips.csv": "a\n1\n",
    "data/machines/m/samples.jsonl": "{}\n",
    "references.bib": "",
}

CHAPTERS = ["index.qmd", "chapters/chips.qmd", "chapters/latency.qmd"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for chapter in CHAPTERS:
        freeze(tmp_path, chapter)
    return tmp_path


def freeze(root: Path, chapter: str, formats: tuple[str, ...] = ("html", "typ")) -> None:
    """What Quarto keeps of a chapter that ends with its note."""
    folder = root / "_freeze" / Path(chapter).with_suffix("") / "execute-results"
    folder.mkdir(parents=True, exist_ok=True)
    text = f"text\n\nComputed from inputs with digest `{freshness.digest(chapter, root)}`.\n"
    for name in formats:
        (folder / f"{name}.json").write_text(json.dumps({"hash": "0", "result": {"markdown": text}}))


def test_inputs_are_the_chapter_its_modules_and_their_data(root):
    def names(chapter: str) -> list[str]:
        return [path.relative_to(root).as_posix() for path in freshness.inputs(chapter, root)]

    assert names("index.qmd") == [
        "index.qmd", "src/__init__.py", "src/chips.py", "src/findings/__init__.py", "src/findings/chips.py",
        "src/schema.py", "data/chips.csv",
    ]  # fmt: skip
    assert names("chapters/chips.qmd") == [
        "chapters/chips.qmd", "src/__init__.py", "src/chips.py", "src/plot.py", "src/schema.py", "data/chips.csv",
    ]  # fmt: skip
    assert names("chapters/latency.qmd") == [
        "chapters/latency.qmd", "src/__init__.py", "src/schema.py", "src/store.py", "data/machines/m/samples.jsonl",
    ]  # fmt: skip
    assert names("references.qmd") == ["references.qmd"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("src/schema.py", CHAPTERS),
        ("src/chips.py", ["index.qmd", "chapters/chips.qmd"]),
        ("src/findings/chips.py", ["index.qmd"]),
        ("src/plot.py", ["chapters/chips.qmd"]),
        ("src/store.py", ["chapters/latency.qmd"]),
        ("src/unused.py", []),
        ("src/freshness.py", []),
        ("data/chips.csv", ["index.qmd", "chapters/chips.qmd"]),
        ("data/machines/m/samples.jsonl", ["chapters/latency.qmd"]),
        ("data/machines/new/samples.jsonl", ["chapters/latency.qmd"]),
        ("data/machines/m/.lock", []),
        ("chapters/chips.qmd", ["chapters/chips.qmd"]),
        ("references.qmd", []),
    ],
)
def test_a_change_makes_stale_what_depends_on_it(root, name, expected):
    assert freshness.stale(root) == []
    (root / name).parent.mkdir(exist_ok=True)
    with (root / name).open("a") as file:
        file.write("\n# changed\n")
    assert freshness.stale(root) == expected


def test_a_deleted_data_file_makes_stale_what_read_it(root):
    (root / "data/machines/m/samples.jsonl").unlink()
    assert freshness.stale(root) == ["chapters/latency.qmd"]


def test_renaming_a_data_file_changes_the_digest(root):
    before = freshness.digest("chapters/latency.qmd", root)
    (root / "data/machines/m").rename(root / "data/machines/n")
    assert freshness.digest("chapters/latency.qmd", root) != before


def test_line_endings_do_not_change_the_digest(root):
    before = freshness.digest("chapters/chips.qmd", root)
    for name in ("chapters/chips.qmd", "src/chips.py", "data/chips.csv"):
        (root / name).write_bytes((root / name).read_bytes().replace(b"\n", b"\r\n"))
    assert freshness.digest("chapters/chips.qmd", root) == before
    assert len(before) == 12
    assert set(before) <= set("0123456789abcdef")


def test_the_digest_is_the_same_in_another_folder(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for name, text in FILES.items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text(text)
    assert [freshness.digest(name, other) for name in CHAPTERS] == [freshness.digest(name, root) for name in CHAPTERS]


def test_missing_results_of_one_format_are_stale(root):
    (root / "_freeze/chapters/chips/execute-results/typ.json").unlink()
    assert freshness.stale(root) == ["chapters/chips.qmd"]


def test_results_without_a_digest_are_stale(root):
    (root / "_freeze/index/execute-results/html.json").write_text('{"result": {"markdown": "no note"}}')
    assert freshness.stale(root) == ["index.qmd"]


def test_clear_deletes_the_stale_and_keeps_the_fresh(root):
    (root / "src/plot.py").write_text("import math\n")
    assert freshness.clear(root) == ["chapters/chips.qmd"]
    assert not (root / "_freeze/chapters/chips").exists()
    assert (root / "_freeze/chapters/latency/execute-results/html.json").exists()
    assert freshness.stale(root) == ["chapters/chips.qmd"]
    freeze(root, "chapters/chips.qmd")
    assert freshness.stale(root) == []


def test_the_note_shows_the_digest():
    note = freshness.note("index.qmd")
    assert note == f"Computed from inputs with digest `{freshness.digest('index.qmd')}`."
    assert note._repr_markdown_() == note


def test_replaced_data_change_the_digest_by_their_content_alone(tmp_path):
    """The same table in another folder is the same input; another table is another."""
    table = tmp_path / "chips.csv"
    code = "from src import freshness; print(freshness.digest('cell.qmd', __import__('pathlib').Path('.')))"
    (tmp_path / "cell.qmd").write_text("```{python}\nfrom src.schema import CHIPS_PATH\n```\n")

    def digest(data: Path) -> str:
        environment = {"ROOFLINE_DATA": str(data), "PYTHONPATH": str(schema.ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        return done.stdout or done.stderr

    table.write_text("a\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "chips.csv").write_text("a\n")
    first = digest(tmp_path)
    assert digest(tmp_path / "other") == first
    table.write_text("b\n")
    assert digest(tmp_path) != first
