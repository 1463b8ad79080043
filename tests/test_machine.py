"""Which machine this is: from made-up files of the system, and that nothing personal is recorded."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys

import pytest

from src import machine, schema, store
from tests import synthetic

CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512f hypervisor

processor\t: 1
model name\t: another
"""


def test_the_first_processor_of_cpuinfo_is_read():
    entries = machine.cpuinfo(CPUINFO)
    assert entries["cpu family"] == "25"
    assert machine.processor_name(entries) == "AMD EPYC"


def test_an_arm_processor_without_a_name_is_named_by_its_part():
    assert machine.processor_name({"CPU implementer": "0x41", "CPU part": "0xd4f"}) == "Arm implementer 0x41 part 0xd4f"


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"processor": "AMD EPYC", "processor_family": 25, "processor_model": 17, "logical_cores": 2},
         "amd-epyc-family-25-model-17-2-cores"),
        ({"processor": "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "processor_family": 6, "logical_cores": 1},
         "intel-xeon-platinum-8480-1-core"),
        ({"processor": "AMD EPYC 9654 96-Core Processor", "logical_cores": 192}, "amd-epyc-9654-192-cores"),
        ({"processor": "Apple M2 Max", "accelerator": "Apple M2 Max GPU", "logical_cores": 12}, "apple-m2-max-gpu"),
        ({"processor": "x", "accelerator": "NVIDIA H200", "logical_cores": 16}, "nvidia-h200"),
    ],
)  # fmt: skip
def test_machines_are_named_after_their_accelerator_or_processor(environment, name):
    assert machine.machine_name(environment) == name


def test_caches_are_counted_once_for_all_cores_that_share_them(tmp_path):
    def cache(core: int, index: int, level: int, kind: str, size: str, shared: str) -> None:
        folder = tmp_path / f"cpu{core}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", str(level)), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(text + "\n")

    for core in (0, 1):
        cache(core, 0, 1, "Data", "32K", str(core))
        cache(core, 3, 3, "Unified", "32M", "0-1")
    assert machine.caches(tmp_path) == [
        {"level": 1, "type": "Data", "size_byte": 32768, "count": 2},
        {"level": 3, "type": "Unified", "size_byte": 33554432, "count": 1},
    ]


def test_the_environment_fits_its_table_and_holds_nothing_personal():
    described = machine.describe("cpu", with_clock=False)
    row = store.check_row(described | {"environment": store.environment_id(described)}, schema.ENVIRONMENTS)
    assert row["threads"] >= 1
    assert row["logical_cores"] >= 1
    text = json.dumps(row)
    for secret in (socket.gethostname(), str(schema.ROOT), os.path.expanduser("~") + "/"):
        assert len(secret) < 4 or secret not in text
    assert f"/{getpass.getuser()}" not in text


def test_two_looks_at_an_unchanged_machine_give_one_identifier():
    first, second = (machine.describe("cpu", with_clock=False) for _ in range(2))
    assert store.environment_id(first) == store.environment_id(second)


def test_variables_that_steer_speed_are_recorded_but_no_path_and_no_other(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_CONFIG", "/home/somebody/mkl")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    recorded = machine.describe("cpu", with_clock=False)["environment_variables"]
    assert "OMP_NUM_THREADS=3" in recorded
    assert "somebody" not in recorded and "SECRET" not in recorded


def _usage(total: float, idle: float, steal: float, own: float, at: float) -> machine.Usage:
    return machine.Usage(total, idle, steal, own, at)


def test_others_load_is_what_is_busy_and_not_ours():
    # In 10 s two cores give 20 s: 4 idle, 1 stolen, 15 busy, of which 12 ours: 3 / 10 s = 0.3 processors by others.
    seen = machine.busyness(_usage(100, 50, 1, 20, 0), _usage(120, 54, 2, 32, 10))
    assert seen.steal_share == pytest.approx(1 / 20)
    assert seen.other_load == pytest.approx(0.3)
    assert seen.is_busy(2)  # 5 % stolen is over 2 %, and 0.3 over 0.1 x 2
    assert not machine.Busyness(0.01, 0.15).is_busy(2)


def test_a_moment_too_short_to_tell_is_unknown():
    seen = machine.busyness(_usage(100, 50, 1, 20, 0), _usage(100.02, 50, 1, 20, 0.01))
    assert (seen.steal_share, seen.other_load, seen.is_busy(1)) == (None, None, False)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_this_process_counts_as_its_own():
    before = machine.usage()
    deadline = before.own_s + 0.2
    while machine.usage().own_s < deadline:
        sum(range(10_000))
    assert machine.usage().own_s >= deadline


def test_nvidia_smi_leaves_out_what_the_driver_does_not_tell(monkeypatch):
    monkeypatch.setattr(machine, "_output", lambda command: "550.1, [N/A], 1980, 345\n")
    found = machine.nvidia_smi(("driver_version", "power.limit", "clocks.max.sm", "clocks.sm"))
    assert found == {"driver_version": "550.1", "clocks.max.sm": "1980", "clocks.sm": "345"}
    monkeypatch.setattr(machine, "_output", lambda command: None)
    assert machine.nvidia_smi(("driver_version",)) == {}


def test_throttling_is_told_from_the_drivers_reasons(monkeypatch):
    answers = {"clocks.sm": "1500, 80, 690.5", "clocks_throttle": "Not Active, Not Active, Active, Not Active"}
    monkeypatch.setattr(
        machine, "_output", lambda command: next(text for part, text in answers.items() if part in command[2])
    )
    assert machine.accelerator_state() == {
        "clock_hz": 1.5e9, "temperature_c": 80.0, "power_w": 690.5, "is_throttled": True,
    }  # fmt: skip


def test_build_values_are_found_in_torchs_own_words():
    text = "Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605\n - Intel(R) MKL-DNN v3.7.1 (Git"
    found = machine._build_values(text + "\n - OpenMP 201511 (a.k.a.")
    assert found["blas"] == "oneAPI Math Kernel Library Version 2024.2-Product"
    assert (found["onednn_version"], found["openmp_version"]) == ("v3.7.1", "OpenMP 201511")
    assert machine._build_values("BLAS_INFO=open, USE_MKLDNN=OFF")["blas"] == "open"


def test_a_synthetic_environment_is_told_from_another_by_its_fields():
    one, other = synthetic.environment(), synthetic.environment(threads=4, torch_version="2.7")
    assert store.differences(one, other) == ["torch_version", "threads"]


def test_the_command_prints_what_would_be_recorded(capsys):
    assert machine.main(["--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["processor"]
    with pytest.raises(SystemExit) as exit_:
        machine.main(["--device", "abacus"])
    assert exit_.value.code == 2
