"""Read the bibliography: which documents the book cites, and whether each can be found again.

The file is BibTeX, which Quarto reads itself; this module reads only as much of it as is needed to check that a key
exists and that a source names its title, publisher, address and the day on which it was seen.

This module needs the standard library alone.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

from src.schema import REFERENCES_PATH, Fault, SchemaError, display_path

PUBLISHERS = ("publisher", "institution", "organization", "journal", "booktitle", "school", "eprinttype")
"""Fields that say who stands behind a document; a source needs at least one."""


def load(path: Path = REFERENCES_PATH) -> dict[str, dict[str, str]]:
    """Every entry by its key: a dict of lower-case field names, with "type" and "line" (as text) added.

    Raises `SchemaError` with every malformed or repeated entry, and OSError if the file can't be read.
    """
    file = display_path(path)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SchemaError([Fault(file, line, "", f"byte 0x{data[error.start]:02x}", "must be UTF-8 text")]) from None
    entries: dict[str, dict[str, str]] = {}
    faults = []
    for start in re.finditer(r"^[ \t]*@(\w+)[ \t]*\{[ \t]*([^,\s{}]*)[ \t]*(,?)", text, re.MULTILINE):
        kind, key, comma = start.groups()
        line = text.count("\n", 0, start.start(1)) + 1
        if kind.lower() in ("comment", "preamble", "string"):
            continue
        try:
            if not key or not comma:
                raise ValueError("an entry must begin with @type{key,")
            if key in entries:
                raise ValueError(f"repeats the key of line {entries[key]['line']}")
            entries[key] = {"type": kind.lower(), "line": str(line)} | _fields(text, start.end())
        except ValueError as error:
            faults.append(Fault(file, line, "", key, str(error)))
    if faults:
        raise SchemaError(faults)
    return entries


def _fields(text: str, position: int) -> dict[str, str]:
    """The fields of one entry, from just after its key. Raises ValueError if a brace or quote is left open."""
    fields = {}
    pattern = re.compile(r"\s*(?:(\w[\w-]*)\s*=\s*|(\}))")
    while True:
        found = pattern.match(text, position)
        if not found:
            raise ValueError("an entry must be a list of name = {value} that ends with a closing brace")
        if found[2]:
            return fields
        value, position = _value(text, found.end())
        fields[found[1].lower()] = re.sub(r"\s+", " ", value).strip()
        position = re.compile(r"\s*,?").match(text, position).end()


def _value(text: str, position: int) -> tuple[str, int]:
    """One field's value and the position after it: {braced}, "quoted" or a bare number."""
    opening = text[position : position + 1]
    if opening not in ("{", '"'):
        bare = re.compile(r"\w+").match(text, position)
        if not bare:
            raise ValueError("a field must have a value")
        return bare[0], bare.end()
    depth = 0
    for index in range(position, len(text)):
        character = text[index]
        if text[index - 1] == "\\":
            continue
        depth += (character == "{") - (character == "}")
        closed = depth == 0 and (character == "}" if opening == "{" else index > position and character == '"')
        if closed:
            return text[position + 1 : index], index + 1
        if depth < 0:
            break
    raise ValueError("a field's brace or quote is never closed")


def plain(value: str) -> str:
    """A field's value without the braces that keep BibTeX from changing its case."""
    return value.replace("{", "").replace("}", "").replace("\\&", "&")


def address(entry: dict[str, str]) -> str:
    """Where the document is: its url, or its doi as a url; "" if it has neither."""
    return entry.get("url") or (f"https://doi.org/{entry['doi']}" if entry.get("doi") else "")


def missing(entry: dict[str, str]) -> list[str]:
    """What a source lacks of title, publisher, address and date seen, in words; empty if it can be found again."""
    faults = []
    if not entry.get("title"):
        faults.append("a title")
    if not any(entry.get(name) for name in PUBLISHERS):
        faults.append(f"a publisher (one of {', '.join(PUBLISHERS)})")
    if not re.match(r"https?://[^\s/]+\.[^\s/]+", address(entry)):
        faults.append("an address (url with http or https, or doi)")
    try:
        datetime.date.fromisoformat(entry.get("urldate", ""))
    except ValueError:
        faults.append("a urldate (YYYY-MM-DD)")
    return faults


def main(arguments: list[str] | None = None) -> int:
    """List the bibliography's keys and titles."""
    parser = argparse.ArgumentParser(prog="python -m src.references", description=main.__doc__)
    parser.add_argument("--path", type=Path, default=REFERENCES_PATH, help="the BibTeX file (default: references.bib)")
    options = parser.parse_args(arguments)
    try:
        entries = load(options.path)
    except (OSError, SchemaError) as error:
        print(error, file=sys.stderr)
        return 1
    for key, entry in entries.items():
        print(f"{key}: {plain(entry.get('title', ''))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
