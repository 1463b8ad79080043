"""Raw measurements on disk: append, resume, lock, merge and read back.

One folder a machine, `data/machines/NAME/`, of JSON Lines files, one row a line, each a table of `src.schema`.
A row is written by a single call, so that a process killed at any moment leaves at most one line cut short; readers
report such a line with its number and use all others. Nothing here derives a result.

Writing needs the standard library alone. Reading into data frames imports pandas when it is called.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from src import schema
from src.schema import Case, Fault, Table

if TYPE_CHECKING:
    import pandas as pd

FILES = {
    "environments.jsonl": schema.ENVIRONMENTS,
    "samples.jsonl": schema.SAMPLES,
    "outcomes.jsonl": schema.OUTCOMES,
    "ceilings.jsonl": schema.CEILINGS,
    "drift.jsonl": schema.DRIFT,
    "trust.jsonl": schema.TRUST,
    "breakdown.jsonl": schema.BREAKDOWN,
}
LOCK_FILE = ".lock"
SYNC_INTERVAL_S = 5.0
"""How often rows are forced to the disk. A killed process loses nothing that it wrote; only a power cut could."""


class StoreError(RuntimeError):
    """A folder of measurements that can't be used as asked; the message says which and why."""


class Locked(StoreError):
    """Another process is measuring into the folder."""


class StoreWarning(UserWarning):
    """Something in a folder was left out; the message says what."""


# Reading lines


def read_rows(path: Path, table: Table) -> tuple[list[dict], list[Fault]]:
    """The valid rows of a JSON Lines file, and one fault for each line that is not: with file, line and column.

    A file that does not exist has no rows. Where the table has a key, a row that repeats an earlier one is a fault,
    except in `schema.OUTCOMES`, whose last row holds.
    """
    rows: list[dict] = []
    faults: list[Fault] = []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return rows, faults
    name = _shown(path)
    seen: dict[tuple, int] = {}
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_row(line, table)
        except RowError as error:
            is_torn = number == len(lines)
            rule = "is cut short, as by a run killed while writing it" if is_torn else error.rule
            faults.append(Fault(name, number, error.column, error.value, rule))
            continue
        if table.key and table is not schema.OUTCOMES:
            key = tuple(row[column] for column in table.key)
            if key in seen:
                faults.append(Fault(name, number, table.key[-1], str(key[-1]), f"repeats line {seen[key]}"))
                continue
            seen[key] = number
        rows.append(row)
    return rows, faults


class RowError(ValueError):
    """One line that is no valid row."""

    def __init__(self, column: str, value: object, rule: str):
        self.column, self.value, self.rule = column, str(value)[:60], rule
        super().__init__(f"column {column!r}: {self.value!r}: {rule}")


def parse_row(line: bytes | str, table: Table) -> dict:
    """One line of JSON as a row with every column of the table, None where absent. Raises `RowError`."""
    try:
        row = json.loads(line)
    except ValueError:
        text = line.decode(errors="replace") if isinstance(line, bytes) else line
        raise RowError("", text, "is not JSON") from None
    if not isinstance(row, dict):
        raise RowError("", row, "must be an object")
    return check_row(row, table)


def check_row(row: Mapping[str, object], table: Table) -> dict:
    """A row checked against its table, with every column in the table's order. Raises `RowError`."""
    for name in row:
        if name not in table.names:
            raise RowError(name, row[name], "unknown column")
    checked = {}
    for column in table.columns:
        try:
            checked[column.name] = column.accept(row.get(column.name))
        except ValueError as error:
            raise RowError(column.name, row.get(column.name), str(error)) from None
    return checked


def _shown(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(schema.ROOT)) if path.is_relative_to(schema.ROOT) else str(path)


# Writing


class Appender:
    """Appends rows to one file. Rows are checked, written by one call each, and whole or not there at all.

    Call `close` (or use it in a ``with``). Only the process that holds the folder's lock, or its worker, may append.
    """

    def __init__(self, path: Path, table: Table):
        self.path, self.table = path, table
        self._synced_at = time.monotonic()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
            self._mend()
        except OSError as error:
            raise _cannot_write(path, error) from error

    def append(self, row: Mapping[str, object]) -> None:
        """Write one row; absent optional values are left out of the line. Raises `StoreError` with the disk's reason,
        after taking back whatever part of the line had been written."""
        checked = check_row(row, self.table)
        present = {name: _short(value) for name, value in checked.items() if value is not None}
        line = json.dumps(present, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            if time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
                self.sync()
        except OSError as error:
            os.ftruncate(self._file, size)
            raise _cannot_write(self.path, error) from error

    def sync(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file)
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Force what was written to the disk and let the file go."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _mend(self) -> None:
        """Remove a last line that a killed run cut short, so that the next row starts on a line of its own."""
        size = os.fstat(self._file).st_size
        if size == 0 or os.pread(self._file, 1, size - 1) == b"\n":
            return
        block = 1 << 16
        start = max(0, size - block)
        tail = os.pread(self._file, block, start)
        begin = start + tail.rfind(b"\n") + 1
        try:
            parse_row(os.pread(self._file, size - begin, begin), self.table)
        except RowError:
            os.ftruncate(self._file, begin)
        else:
            os.write(self._file, b"\n")


def _short(value: object) -> object:
    """Floats to nine significant digits: finer than any clock here, and half the size on disk; times to the ms."""
    if not isinstance(value, float):
        return value
    return round(value, 3) if value > 1e9 and value < 1e11 else float(f"{value:.9g}")


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{_shown(path)}: cannot write: {error.strerror}; what was there before is unharmed")


def appender(folder: Path, file: str) -> Appender:
    """An appender to one of a machine folder's `FILES`."""
    return Appender(folder / file, FILES[file])


@contextmanager
def lock(folder: Path, *, wait_s: float = 0.0, poll_s: float = 0.2) -> Iterator[None]:
    """Hold a machine's folder for writing; made if it does not exist.

    Waits up to ``wait_s`` seconds for another holder, then raises `Locked` with the holder's process and start. The
    system releases the lock of a process that dies, however it dies.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        _take(file, folder, wait_s, poll_s)
        holder = f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}\n"
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, holder.encode(), 0)
        except OSError as error:
            raise _cannot_write(path, error) from error
        yield
        os.ftruncate(file, 0)
    finally:
        os.close(file)


def _take(file: int, folder: Path, wait_s: float, poll_s: float) -> None:
    import fcntl

    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() >= deadline:
                holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "an unnamed process"
                raise Locked(f"{_shown(folder)}: in use by {holder}; wait for it, or name another folder") from None
            time.sleep(poll_s)


# Environments


def environment_id(environment: Mapping[str, object]) -> str:
    """The digest of all that must agree before samples are merged: `schema.IDENTITY`."""
    identity = {column.name: environment.get(column.name) for column in schema.IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def add_environment(folder: Path, environment: Mapping[str, object]) -> str:
    """Append an environment as this run found it; returns its identifier, which every row of the run carries."""
    row = {name: environment.get(name) for name in schema.ENVIRONMENTS.names}
    row["environment"] = environment_id(row)
    with appender(folder, "environments.jsonl") as file:
        file.append(row)
    return row["environment"]


# Resuming


@dataclass(frozen=True)
class Progress:
    """What a folder already holds for one environment: outcomes by case (the last of each) and the raw samples."""

    outcomes: dict[Case, dict]
    samples: dict[Case, list[dict]]
    faults: tuple[Fault, ...]


def progress(folder: Path, environment: str) -> Progress:
    """What earlier runs left in a folder for an environment, so that a run can carry on where they stopped."""
    outcomes, outcome_faults = read_rows(folder / "outcomes.jsonl", schema.OUTCOMES)
    samples, sample_faults = read_rows(folder / "samples.jsonl", schema.SAMPLES)
    last = {schema.case_of(row): row for row in outcomes if row["environment"] == environment}
    by_case: dict[Case, list[dict]] = {}
    for row in current(samples, last):
        if row["environment"] == environment:
            by_case.setdefault(schema.case_of(row), []).append(row)
    return Progress(last, by_case, tuple(outcome_faults + sample_faults))


def current(samples: Iterable[dict], outcomes: Mapping[Case, Mapping[str, object]]) -> Iterator[dict]:
    """The samples that belong to the attempt of their case's last outcome; those of earlier attempts are history."""
    for row in samples:
        outcome = outcomes.get(schema.case_of(row), {})
        if (row["attempt"] or 1) == (outcome.get("attempt") or 1):
            yield row


class Follower:
    """Reads the rows that are appended to a file, each once: `rows` returns those that are new since the last call."""

    def __init__(self, path: Path, table: Table):
        self.path, self.table, self._offset = path, table, 0

    def rows(self) -> list[dict]:
        """The new rows; lines that can't be used, or are not whole yet, are left out."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                found.append(parse_row(line, self.table))
            except RowError:
                continue
        return found


def merge(source: Path, target: Path) -> dict[str, int]:
    """Add the rows of one folder to another's, for instance of a run made elsewhere; rows already there are skipped.

    Environments stay apart: each row keeps its own. Returns the number of rows added to each file. Raises
    `StoreError` if the source has a line that can't be read, before anything is written.
    """
    found = {file: read_rows(source / file, table) for file, table in FILES.items()}
    faults = [fault for _, some in found.values() for fault in some]
    if faults:
        raise StoreError("\n".join(map(str, faults)))
    added = {}
    with lock(target):
        for file, (rows, _) in found.items():
            table = FILES[file]
            columns = table.key if table.key and table is not schema.OUTCOMES else table.names
            present, _ = read_rows(target / file, table)
            known = {_key(row, columns) for row in present}
            with appender(target, file) as out:
                fresh = [row for row in rows if _key(row, columns) not in known]
                for row in fresh:
                    out.append(row)
            added[file] = len(fresh)
    return added


def _key(row: Mapping[str, object], columns: Iterable[str]) -> str:
    return json.dumps([_short(row[name]) for name in columns])


# Reading into data frames


@dataclass(frozen=True)
class Measured:
    """All that was measured on one machine in one environment.

    ``environment`` is that environment's latest row. The frames have their table's columns (`schema.SAMPLES`, ...).
    ``others`` names the environments in the folder that were left out; ``faults`` the lines that couldn't be used.
    """

    name: str
    folder: Path
    environment: dict
    samples: pd.DataFrame
    outcomes: pd.DataFrame
    ceilings: pd.DataFrame
    drift: pd.DataFrame
    trust: pd.DataFrame
    breakdown: pd.DataFrame
    others: tuple[str, ...]
    faults: tuple[Fault, ...]


def machines(root: Path | None = None) -> list[str]:
    """Names of the machines that have data, sorted."""
    root = schema.MACHINES_PATH if root is None else root
    if not root.is_dir():
        return []
    return sorted(path.parent.name for path in root.glob("*/environments.jsonl"))


def load(machine: str, root: Path | None = None, environment: str | None = None) -> Measured:
    """Everything measured on a machine, as data frames of raw rows.

    Samples of different environments are never mixed: without ``environment`` the one with the most cases is taken
    (the newest of equals), and a `StoreWarning` names those left out. Lines that can't be used are warned of and
    left out. Raises `StoreError` if the machine has no environment.
    """
    folder = (schema.MACHINES_PATH if root is None else Path(root)) / machine
    return _load(folder, environment, _stamp(folder))


def _stamp(folder: Path) -> tuple:
    """Size and time of each file, so that a changed folder is read anew."""
    stats = ((file, folder / file) for file in FILES)
    return tuple((file, path.stat().st_size, path.stat().st_mtime_ns) for file, path in stats if path.exists())


@lru_cache(maxsize=16)
def _load(folder: Path, environment: str | None, stamp: tuple) -> Measured:
    found = {file: read_rows(folder / file, table) for file, table in FILES.items()}
    faults = tuple(fault for _, some in found.values() for fault in some)
    for fault in faults:
        warnings.warn(str(fault), StoreWarning, stacklevel=3)
    known = {row["environment"]: row for row in found["environments.jsonl"][0]}
    if not known:
        raise StoreError(f"{_shown(folder)}: no environment recorded")
    chosen = environment or _fullest(known, found["outcomes.jsonl"][0], found["ceilings.jsonl"][0])
    if chosen not in known:
        raise StoreError(f"{_shown(folder)}: no environment {chosen!r}; there are {', '.join(known)}")
    others = tuple(name for name in known if name != chosen)
    if others and environment is None:
        warnings.warn(
            f"{_shown(folder)}: several environments; {chosen} is used, {', '.join(others)} left out: "
            f"they differ in {', '.join(differences(known[chosen], known[others[0]]))}",
            StoreWarning,
            stacklevel=3,
        )
    outcomes = {schema.case_of(row): row for row in found["outcomes.jsonl"][0] if row["environment"] == chosen}
    chosen_samples = (row for row in found["samples.jsonl"][0] if row["environment"] == chosen)
    frames = {
        file: _frame((row for row in found[file][0] if row["environment"] == chosen), FILES[file])
        for file in ("ceilings.jsonl", "drift.jsonl", "trust.jsonl", "breakdown.jsonl")
    }
    return Measured(
        name=folder.name,
        folder=folder,
        environment=known[chosen],
        samples=_frame(current(chosen_samples, outcomes), schema.SAMPLES),
        outcomes=_frame(outcomes.values(), schema.OUTCOMES),
        ceilings=frames["ceilings.jsonl"],
        drift=frames["drift.jsonl"],
        trust=frames["trust.jsonl"],
        breakdown=frames["breakdown.jsonl"],
        others=others,
        faults=faults,
    )


def _fullest(known: Mapping[str, dict], *tables: list[dict]) -> str:
    counts = dict.fromkeys(known, 0)
    for row in (row for rows in tables[:1] for row in rows):
        if row["environment"] in counts:
            counts[row["environment"]] += 1
    return max(known, key=lambda name: (counts[name], known[name]["recorded_at"]))


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The names of the fields of `schema.IDENTITY` in which two environments differ."""
    return [column.name for column in schema.IDENTITY if one.get(column.name) != other.get(column.name)]


def _frame(rows: Iterable[Mapping[str, object]], table: Table) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=table.names)
    kinds = {float: "float64", int: "Int64", bool: "boolean", str: "object"}
    for column in table.columns:
        kind = kinds[column.type]
        if column.required and column.type in (int, bool):
            kind = {int: "int64", bool: "bool"}[column.type]
        frame[column.name] = frame[column.name].astype(kind)
    return frame


def samples(machine: str, root: Path | None = None, environment: str | None = None) -> pd.DataFrame:
    """Raw samples of networks, `schema.SAMPLES`; warm-ups included and marked."""
    return load(machine, root, environment).samples.copy()


def outcomes(machine: str, root: Path | None = None, environment: str | None = None) -> pd.DataFrame:
    """How each case ended, `schema.OUTCOMES`; one row a case."""
    return load(machine, root, environment).outcomes.copy()


def ceilings(machine: str, root: Path | None = None, environment: str | None = None) -> pd.DataFrame:
    """Raw samples of the microbenchmarks, `schema.CEILINGS`."""
    return load(machine, root, environment).ceilings.copy()


def drift(machine: str, root: Path | None = None, environment: str | None = None) -> pd.DataFrame:
    """The reference timed at the start, middle and end of each run, `schema.DRIFT`."""
    return load(machine, root, environment).drift.copy()


def trust(machine: str, root: Path | None = None, environment: str | None = None) -> pd.DataFrame:
    """Comparisons with other ways of measuring, `schema.TRUST`; empty where they were not run."""
    return load(machine, root, environment).trust.copy()


def breakdown(machine: str, root: Path | None = None, environment: str | None = None) -> pd.DataFrame:
    """Raw timings of operations in training, `schema.BREAKDOWN`; warm-ups included and marked."""
    return load(machine, root, environment).breakdown.copy()


def environment(machine: str, root: Path | None = None, environment: str | None = None) -> dict:
    """The environment's latest row, `schema.ENVIRONMENTS`, as a dict; None where a value isn't known."""
    return dict(load(machine, root, environment).environment)


def main(arguments: list[str] | None = None) -> int:
    """Check folders of measurements, or merge one into another."""
    parser = argparse.ArgumentParser(prog="python -m src.store", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="name every line that can't be used; exit 1 if there is one")
    check.add_argument("folders", type=Path, nargs="*", help="default: every machine")
    joining = commands.add_parser("merge", help="add one folder's rows to another's")
    joining.add_argument("source", type=Path)
    joining.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "merge":
        if not options.source.is_dir():
            parser.error(f"{options.source} is no folder")
        try:
            added = merge(options.source, options.target)
        except StoreError as error:
            print(error, file=sys.stderr)
            return 1
        print(", ".join(f"{file}: {count} rows added" for file, count in added.items()))
        return 0
    folders = options.folders or [schema.MACHINES_PATH / name for name in machines()]
    broken = False
    for folder in folders:
        for file, table in FILES.items():
            rows, faults = read_rows(folder / file, table)
            print(f"{_shown(folder / file)}: {len(rows)} rows, {len(faults)} faults")
            for fault in faults:
                broken = True
                print(f"  {fault}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
