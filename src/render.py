"""Render the book with the best renderer at hand: Quarto from PATH, else Quarto from pip, else the draft edition.

Chapters whose frozen results are stale are executed again first (`src.freshness`): Quarto's own freeze looks at the
chapter's text alone, not at the code and the measurements behind it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from src import assets, freshness
from src.book import BookError
from src.schema import ROOT

OLDEST_QUARTO = (1, 9, 17)
"""The first release whose Typst output knows books."""

PINNED_QUARTO = "1.10.19"
"""The ``quarto-cli`` package installed where no Quarto is on PATH; it downloads Quarto's release as it installs."""

INSTALL_TIMEOUT_S = 600


class NoQuarto(RuntimeError):
    """Why there is no Quarto to render with, in one sentence."""


def find_quarto() -> str:
    """Path of a Quarto on PATH (the environment's own included) that is new enough. Raises `NoQuarto`."""
    candidates = [shutil.which("quarto"), shutil.which("quarto", path=str(Path(sys.executable).parent))]
    found = []
    for path in filter(None, dict.fromkeys(candidates)):
        version = quarto_version(path)
        if version >= OLDEST_QUARTO:
            return path
        found.append(".".join(map(str, version)) or "a Quarto that does not start")
    oldest = ".".join(map(str, OLDEST_QUARTO))
    raise NoQuarto(f"PATH has {found[0]}, older than {oldest}" if found else "no quarto on PATH")


def quarto_version(path: str) -> tuple[int, ...]:
    """Version of a Quarto executable as numbers; empty if it does not run."""
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=120).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", output)
    return tuple(map(int, match.groups())) if match else ()


def install_quarto() -> str:
    """Install the pinned ``quarto-cli`` beside this Python and return its path; raises `NoQuarto` if that fails."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*command, f"quarto-cli=={PINNED_QUARTO}"], capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise NoQuarto(f"installing quarto-cli {PINNED_QUARTO} took longer than {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        raise NoQuarto(
            f"the package quarto-cli {PINNED_QUARTO}, which downloads Quarto's release as it installs, "
            f"could not be installed ({_cause(done.stderr)})"
        )
    return find_quarto()


def _cause(log: str) -> str:
    """The line of a pip log that names the cause: the last exception, else the last error."""
    lines = [line.strip(" ×╰─>│") for line in log.splitlines()]
    for pattern in (r"^\w*(\.\w+)*(Error|Exception)\b.*", r"^(error|ERROR):.*"):
        if causes := [line for line in lines if re.match(pattern, line)]:
            return causes[-1][:160]
    return "pip gave no reason"


def with_quarto(quarto: str, *arguments: str) -> None:
    """Run Quarto in the book's folder on this Python. Raises CalledProcessError if it fails."""
    assets.prepare()
    environment = {**os.environ, "QUARTO_PYTHON": sys.executable}
    subprocess.run([quarto, *arguments], cwd=ROOT, env=environment, check=True)


def render() -> list[Path]:
    """Render HTML and PDF; returns the files to open. Raises CalledProcessError or `BookError`."""
    try:
        quarto = _quarto_or_install()
    except NoQuarto as reason:
        print(f"Rendering the draft edition, without Quarto: {reason}.", file=sys.stderr)
        from src import draft

        return draft.render()
    cleared = freshness.clear()
    if cleared:
        print(f"Executing again, since what they are computed from has changed: {', '.join(cleared)}", file=sys.stderr)
    with_quarto(quarto, "render")
    book = ROOT / "_book"
    return [book / "index.html", *sorted(book.glob("*.pdf"))]


def _quarto_or_install() -> str:
    try:
        return find_quarto()
    except NoQuarto as reason:
        print(f"Installing Quarto {PINNED_QUARTO}: {reason}.", file=sys.stderr)
        return install_quarto()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.render", description=__doc__)
    parser.add_argument("--preview", action="store_true", help="serve the book and render it again as you edit")
    options = parser.parse_args()
    try:
        if options.preview:
            with_quarto(_quarto_or_install(), "preview")
        else:
            for path in render():
                print(path)
    except NoQuarto as reason:
        sys.exit(f"The preview needs Quarto: {reason}.")
    except BookError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
