"""Nothing is lost: rows on disk survive kills, full disks, edits, and second runs."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from src import schema, store
from src.schema import Case
from tests import synthetic

CASE = Case("net", "inference", 1, "cpu", "fp32")


def row(index: int, **changes) -> dict:
    base = {"environment": "e", **vars(CASE), "phase": "inference", "index": index, "is_warmup": False,
            "latency_s": 0.5, "iterations": 1, "started_at": 1.7e9}  # fmt: skip
    return base | changes


def write(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    with store.appender(folder, "samples.jsonl") as out:
        for index in range(count):
            out.append(row(index))
    return folder / "samples.jsonl"


def read(path: Path):
    return store.read_rows(path, schema.SAMPLES)


def test_rows_come_back_as_written(tmp_path):
    rows, faults = read(write(tmp_path, 3))
    assert faults == []
    assert [found["index"] for found in rows] == [0, 1, 2]
    assert rows[0] == row(0) | {"host_latency_s": None, "attempt": None}


def test_numbers_are_kept_to_nine_digits_and_times_to_the_millisecond(tmp_path):
    with store.appender(tmp_path, "samples.jsonl") as out:
        out.append(row(0, latency_s=0.12345678949, started_at=1700000000.12345))
    found = read(tmp_path / "samples.jsonl")[0][0]
    assert (found["latency_s"], found["started_at"]) == (0.123456789, 1700000000.123)


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"latency_s": -1.0}, "latency_s"),
        ({"latency_s": float("nan")}, "latency_s"),
        ({"latency_s": "0.5"}, "latency_s"),
        ({"phase": "sideways"}, "phase"),
        ({"is_warmup": 1}, "is_warmup"),
        ({"index": True}, "index"),
        ({"model": None}, "model"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_row_that_breaks_the_schema_is_refused_and_nothing_is_written(tmp_path, changes, column):
    path = write(tmp_path, 1)
    before = path.read_bytes()
    with store.appender(tmp_path, "samples.jsonl") as out, pytest.raises(store.RowError) as error:
        out.append(row(1) | changes)
    assert error.value.column == column
    assert path.read_bytes() == before


def test_a_file_cut_at_any_byte_of_its_last_line_loses_that_line_alone(tmp_path):
    path = write(tmp_path, 3)
    whole = path.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for end in [*range(start, len(whole) - 1, 9), len(whole) - 2, len(whole) - 1]:
        path.write_bytes(whole[:end])
        rows, faults = read(path)
        is_whole = end == len(whole) - 1  # only the line break is missing
        assert [found["index"] for found in rows] == ([0, 1, 2] if is_whole else [0, 1])
        torn = end > start and not is_whole
        assert [(fault.line, "cut short" in fault.rule) for fault in faults] == ([(3, True)] if torn else [])
        write_one_more = 7
        with store.appender(tmp_path, "samples.jsonl") as out:
            out.append(row(write_one_more))
        rows, faults = read(path)
        assert faults == []
        assert [found["index"] for found in rows] == ([0, 1, 2, 7] if is_whole else [0, 1, 7])


def test_edited_lines_are_named_and_all_others_used(tmp_path):
    path = write(tmp_path, 5)
    lines = path.read_text().splitlines()
    lines[1] = "not JSON at all"
    lines[2] = lines[2].replace('"latency_s":0.5', '"latency_s":"fast"')
    lines[4] = lines[3]
    path.write_text("\n".join(lines) + "\n\xff")
    path.write_bytes(path.read_bytes()[:-2] + b"[1]\n")
    rows, faults = read(path)
    assert [found["index"] for found in rows] == [0, 3]
    assert [(fault.line, fault.column) for fault in faults] == [(2, ""), (3, "latency_s"), (5, "index"), (6, "")]
    assert str(path) in str(faults[0]) and ":2:" in str(faults[0])
    assert "repeats line 4" in faults[2].rule


def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path, monkeypatch):
    path = write(tmp_path, 2)
    before = path.read_bytes()
    real = os.write

    def fill_up(file: int, data: bytes) -> int:
        if len(data) > 20:
            return real(file, data[:20])  # the disk takes the beginning,
        raise OSError(errno.ENOSPC, "No space left on device")

    with store.appender(tmp_path, "samples.jsonl") as out:
        calls = iter([fill_up])

        def once_then_full(file: int, data: bytes) -> int:
            step = next(calls, None)
            if step is None:
                raise OSError(errno.ENOSPC, "No space left on device")  # and then no more
            return step(file, data)

        monkeypatch.setattr(store.os, "write", once_then_full)
        with pytest.raises(store.StoreError, match=r"samples\.jsonl: cannot write: No space left on device"):
            out.append(row(2))
        monkeypatch.undo()
    assert path.read_bytes() == before


def _mounted(tmp_path: Path, size: str) -> Path | None:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except OSError:
        return None
    return folder if done.returncode == 0 else None


def test_a_disk_that_is_really_full(tmp_path):
    folder = _mounted(tmp_path, "64k")
    if folder is None:
        pytest.skip("needs the right to mount a small file system")
    try:
        with store.appender(folder, "samples.jsonl") as out, pytest.raises(store.StoreError, match="No space left"):
            for index in range(10_000):
                out.append(row(index))
        rows, faults = read(folder / "samples.jsonl")
        assert faults == []
        assert len(rows) > 50
        assert [found["index"] for found in rows] == list(range(len(rows)))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_may_not_be_written_is_said(tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store.os, "open", refuse)
    with pytest.raises(store.StoreError, match="cannot write: Read-only file system"):
        store.appender(tmp_path, "samples.jsonl")
    with pytest.raises(store.StoreError, match="cannot write: Read-only file system"), store.lock(tmp_path):
        pass


LOCKER = "import sys, time; from pathlib import Path; from src import store\n"


def test_a_second_run_refuses_and_says_who_holds_the_folder(tmp_path):
    code = LOCKER + "with store.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=schema.ROOT)
    try:
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        with pytest.raises(store.Locked, match=f"in use by process {holder.pid}, since 20"), store.lock(tmp_path):
            pass
        with pytest.raises(store.Locked), store.lock(tmp_path, wait_s=0.3, poll_s=0.05):
            pass
        assert time.monotonic() - began >= 0.3
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.lock(tmp_path, wait_s=5):  # a holder that died holds nothing
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


KILLED = """
import sys, time
from pathlib import Path
from src import schema, store, timing
from tests.test_store import CASE, row
folder = Path(sys.argv[1])
with store.lock(folder, wait_s=10), store.appender(folder, "samples.jsonl") as out:
    known = store.progress(folder, "e").samples.get(CASE, [])
    first = 1 + max((found["index"] for found in known), default=-1)
    print("started", flush=True)
    def record(taken):
        out.append(row(taken.index, is_warmup=taken.is_warmup, latency_s=taken.total_s))
        print(taken.index, flush=True)
    plan = timing.Plan(budget_s=30, maximum=100_000, target=1e-12)
    timing.sample(lambda: time.sleep(1e-4), timing.CpuClock(), plan, record=record, first_index=first)
"""


def test_fifty_kills_lose_at_most_the_sample_under_way(tmp_path):
    moments = random.Random(5)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    folder = tmp_path / "machine"
    told = -1
    environment = os.environ | {"PYTHONPATH": str(schema.ROOT)}
    kills = 0
    # At least fifty, and on until the kills have come while it sampled, not before: a loaded machine starts slowly.
    while kills < 50 or (told <= 50 and kills < 100):
        kills += 1
        with subprocess.Popen(
            [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, cwd=schema.ROOT, env=environment
        ) as run:
            assert run.stdout.readline() == b"started\n"
            time.sleep(moments.uniform(0, 0.02))
            run.kill()
            lines = run.stdout.read().splitlines()
        told = max([told, *(int(line) for line in lines if line.isdigit())])
        rows, faults = read(folder / "samples.jsonl")
        assert all("cut short" in fault.rule for fault in faults)
        # Every sample that the run said it had is there, at most one more, and none twice.
        assert [found["index"] for found in rows] in (list(range(told + 1)), list(range(told + 2)))
        told = len(rows) - 1
    assert told > 50


def test_progress_keeps_the_last_outcome_and_one_environment(tmp_path):
    write(tmp_path, 3)
    outcome = {"environment": "e", **vars(CASE), "is_busy": False, "started_at": 1.7e9, "elapsed_s": 1.0}
    with store.appender(tmp_path, "outcomes.jsonl") as out:
        out.append(outcome | {"status": "too_few"})
        out.append(outcome | {"status": "ok"})
        out.append(outcome | {"environment": "other", "status": "failed"})
    known = store.progress(tmp_path, "e")
    assert known.outcomes[CASE]["status"] == "ok"
    assert [found["index"] for found in known.samples[CASE]] == [0, 1, 2]
    assert store.progress(tmp_path, "other").samples == {}


def test_a_follower_reads_each_whole_row_once(tmp_path):
    path = write(tmp_path, 2)
    follower = store.Follower(path, schema.SAMPLES)
    assert [found["index"] for found in follower.rows()] == [0, 1]
    with path.open("ab") as file:
        file.write(b'{"environment":')
    assert follower.rows() == []
    with store.appender(tmp_path, "samples.jsonl") as out:
        out.append(row(2))
    assert [found["index"] for found in follower.rows()] == [2]


def test_the_identifier_changes_with_each_field_that_must_agree_and_with_no_other():
    base = synthetic.environment()
    name = store.environment_id(base)
    for column in schema.IDENTITY:
        changed = {str: "other", int: 99, float: 99.0, bool: True, list: []}[column.type]
        assert store.environment_id(base | {column.name: changed}) != name, column.name
    for column in schema.STATE:
        assert store.environment_id(base | {column.name: 7.0}) == name, column.name


def test_samples_of_two_environments_are_not_merged_silently(tmp_path):
    synthetic.write(tmp_path, synthetic.environment(), dict.fromkeys(synthetic.cases(["a", "b"]), 0.1))
    newer = synthetic.environment(torch_version="2.7.0", recorded_at=synthetic.STARTED_AT + 9)
    synthetic.write(tmp_path, newer, dict.fromkeys(synthetic.cases(["a"]), 0.2))
    with pytest.warns(store.StoreWarning, match="several environments.*they differ in torch_version"):
        found = store.load("synthetic-cpu", tmp_path)
    assert found.environment["torch_version"] == "2.6.0"  # the one with more cases
    assert set(found.samples["model"]) == {"a", "b"}
    assert found.samples["latency_s"].max() < 0.25  # 0.2 s warm-ups of the first, none of the second's 0.4 s
    assert found.others == (store.environment_id(newer),)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = store.load("synthetic-cpu", tmp_path, environment=store.environment_id(newer))
    assert set(other.samples["model"]) == {"a"}


def test_frames_have_the_columns_of_their_tables(tmp_path):
    cases = {Case("a", "inference", 1, "cpu", "fp32"): 0.1, Case("a", "inference", 256, "cpu", "fp32"): None}
    synthetic.write(tmp_path, synthetic.environment(), cases)
    found = store.load("synthetic-cpu", tmp_path)
    for frame, table in ((found.samples, schema.SAMPLES), (found.outcomes, schema.OUTCOMES),
                         (found.ceilings, schema.CEILINGS), (found.drift, schema.DRIFT)):  # fmt: skip
        assert list(frame.columns) == table.names
    assert store.machines(tmp_path) == ["synthetic-cpu"]
    assert sorted(found.outcomes["status"]) == ["ok", "out_of_memory"]
    assert found.samples["is_warmup"].sum() == 1


def test_reading_warns_of_lines_left_out(tmp_path):
    folder = synthetic.write(tmp_path, synthetic.environment(), dict.fromkeys(synthetic.cases(["a"]), 0.1))
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"environment": "cut')
    with pytest.warns(store.StoreWarning, match=r"samples\.jsonl:28: .*cut short"):  # 3 cases x 9 samples, and one
        assert len(store.samples("synthetic-cpu", tmp_path)) == 27


def test_merging_adds_only_what_is_new_and_keeps_environments(tmp_path):
    cases = synthetic.cases(["a"], (1,))
    ours = synthetic.write(tmp_path / "ours", synthetic.environment(), dict.fromkeys(cases, 0.1))
    theirs = synthetic.write(tmp_path / "theirs", synthetic.environment(threads=1), dict.fromkeys(cases, 0.3))
    assert store.merge(theirs, ours)["samples.jsonl"] == 9
    assert store.merge(theirs, ours) == dict.fromkeys(store.FILES, 0)
    rows, faults = read(ours / "samples.jsonl")
    assert (len(rows), faults) == (18, [])
    assert len({found["environment"] for found in rows}) == 2


def test_merging_a_broken_folder_changes_nothing(tmp_path):
    cases = dict.fromkeys(synthetic.cases(["a"], (1,)), 0.1)
    ours = synthetic.write(tmp_path / "ours", synthetic.environment(), cases)
    theirs = synthetic.write(tmp_path / "theirs", synthetic.environment(threads=1), cases)
    with (theirs / "samples.jsonl").open("a") as file:
        file.write("scribble\n")
    before = (ours / "samples.jsonl").read_bytes()
    with pytest.raises(store.StoreError, match=r"samples\.jsonl:10: "):
        store.merge(theirs, ours)
    assert (ours / "samples.jsonl").read_bytes() == before


def test_the_command_names_broken_lines(tmp_path, capsys):
    folder = synthetic.write(tmp_path, synthetic.environment(), dict.fromkeys(synthetic.cases(["a"], (1,)), 0.1))
    assert store.main(["check", str(folder)]) == 0
    with (folder / "drift.jsonl").open("a") as file:
        file.write(json.dumps({"environment": "e"}) + "\n")
    assert store.main(["check", str(folder)]) == 1
    assert "drift.jsonl:4: column 'device'" in capsys.readouterr().out
