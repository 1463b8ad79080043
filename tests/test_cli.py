"""Every module that does something by itself explains itself, and meets a wrong argument with exit code 2."""

from __future__ import annotations

import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src.schema import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))
WRONG = "--no-such-option"
TIMEOUT_S = 120


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def runs_by_itself(path: Path) -> bool:
    """Whether a module has a block for ``__name__ == "__main__"``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)


PROGRAMS = [module(path) for path in SOURCES if runs_by_itself(path)]


def run(name: str, argument: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", name, argument]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], subprocess.CompletedProcess]:
    """Both calls of every program, two at a time: what takes long is importing, not arguments."""
    calls = [(name, argument) for name in PROGRAMS for argument in ("--help", WRONG)]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(calls, pool.map(lambda call: run(*call), calls), strict=True))


def test_programs_are_found():
    assert {"src.draft", "src.freshness", "src.render"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_how_to_call_the_module_and_what_it_does(name, outcomes):
    done = outcomes[name, "--help"]
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {name}")
    paragraphs = done.stdout.split("\n\n")
    assert " " in paragraphs[1].strip() and paragraphs[1].strip().endswith("."), "no sentence below the usage"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_argument_is_refused_in_a_sentence(name, outcomes):
    done = outcomes[name, WRONG]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"python -m {name}: error: ")
    assert done.stdout == ""


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_importing_a_module_does_no_work(path):
    """At the top level stand definitions and constants, no statement that runs for its effect."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in tree.body:
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # a docstring
        guard = isinstance(node, ast.If) and (
            "__name__" in ast.unparse(node.test) or "TYPE_CHECKING" in ast.unparse(node.test)
        )
        assert isinstance(node, allowed) or text or guard, f"{path.name}:{node.lineno}: {ast.unparse(node)[:60]}"
