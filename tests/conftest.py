"""What several test files share: the book, executed once from scratch, and what the draft edition makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from src import book, draft


@dataclass(frozen=True)
class Rendered:
    """A book's executed chapters, its HTML page, its Typst source and its PDF's path."""

    book: book.Book
    chapters: list[draft.Executed]
    html: str
    typst: str
    pdf: Path


def render(root: Path, folder: Path) -> Rendered:
    """Execute a book from scratch and convert it to everything that the draft edition writes."""
    whole = book.load(root)
    chapters = draft.execute_all(whole)
    html = draft.write(whole, chapters, "html", folder).read_text(encoding="utf-8")
    images = folder / "typst"
    images.mkdir()
    typst = draft.convert(whole, chapters, "typst", images)
    return Rendered(whole, chapters, html, typst, draft.write(whole, chapters, "pdf", folder))


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """This book, each chapter executed from scratch once in a session."""
    return render(book.ROOT, tmp_path_factory.mktemp("draft"))
