"""Ceilings: byte and FLOP counts of the kernels, and how raw rows become roofs."""

from __future__ import annotations

import math

import pytest
import torch

from src import ceilings, schema, store
from tests import synthetic


def raw(kind: str, kernel: str, latencies, *, flop=0.0, bytes_moved=0.0, size=0.0, precision="fp32", device="cpu"):
    return [
        {"environment": "e", "kind": kind, "device": device, "precision": precision, "kernel": kernel,
         "shape": f"{size:g}", "flop": flop, "bytes_moved": bytes_moved, "working_set_byte": size, "index": index,
         "is_warmup": index == 0, "latency_s": latency_s, "iterations": 1, "started_at": 1.7e9}
        for index, latency_s in enumerate(latencies)
    ]  # fmt: skip


def frame(*groups):
    return store._frame([row for group in groups for row in group], schema.CEILINGS)


def test_the_roof_is_the_best_kernels_median_without_warm_ups():
    rows = frame(
        raw("compute", "mm", [9, 2, 2, 2, 2, 2], flop=8.0),  # 4 FLOP/s
        raw("compute", "convolution", [0.1, 1, 1, 1, 1, 8], flop=6.0),  # 6 FLOP/s
        raw("compute", "linear", [1, 1, 1, 1, 1, 1], flop=1.0, precision="bf16"),
    )
    found = ceilings.achievable(rows)
    assert list(found["precision"]) == ["fp32", "bf16"]
    assert list(found["kernel"]) == ["convolution", "linear"]
    assert list(found["achievable_flop_per_s"]) == [6.0, 1.0]


def test_a_lucky_probe_does_not_make_a_roof():
    rows = frame(
        raw("compute", "mm", [1, 2, 2, 2, 2, 2], flop=8.0),
        raw("compute", "lucky", [1, 1, 1], flop=8.0),  # two samples only
    )
    assert list(ceilings.achievable(rows)["kernel"]) == ["mm"]
    assert list(ceilings.achievable(frame(raw("compute", "lucky", [1, 1, 1], flop=8.0)))["kernel"]) == ["lucky"]


def test_levels_are_read_from_the_curve_and_the_reported_caches(tmp_path):
    environment = synthetic.environment()
    synthetic.write(tmp_path, environment, {}, byte_per_s=40e9)
    rows = store.ceilings("synthetic-cpu", tmp_path)
    levels = ceilings.bandwidth_levels(rows, environment).set_index(["kind", "level"])["achievable_byte_per_s"]
    # The made-up caches are 64 KiB, 2 MiB and 32 MiB in all; four times 40 GB/s up to 512 KiB, twice up to 32 MiB.
    assert levels["read", "L1"] == pytest.approx(160e9)
    assert levels["read", "L2"] == pytest.approx(160e9)
    assert levels["read", "L3"] == pytest.approx(80e9)
    assert levels["read", "DRAM"] == pytest.approx(40e9)
    assert ceilings.achievable_byte_per_s(rows, environment, "cpu") == pytest.approx(40e9)


def test_an_accelerators_cache_is_found_from_its_curve():
    groups = [
        raw("copy", "copy", [1.0] * 6, bytes_moved=rate, size=2.0**power, device="cuda")
        for power, rate in ((20, 90.0), (22, 100.0), (24, 95.0), (26, 80.0), (28, 26.0), (30, 25.0), (31, 25.0))
    ]
    levels = ceilings.bandwidth_levels(frame(*groups), synthetic.gpu())
    assert list(levels["level"]) == ["L2", "memory"]
    # Midway between 100 and 25 is 50: the cache ends at 2^26 byte, so the memory counts from four times that.
    assert list(levels["achievable_byte_per_s"]) == [100.0, 25.0]


def test_a_machine_without_bandwidth_rows_has_no_slope():
    with pytest.raises(ValueError, match="no bandwidth from memory"):
        ceilings.achievable_byte_per_s(frame(), synthetic.environment(), "cpu")


def test_overhead_is_the_median():
    rows = frame(raw("overhead", "add, no elements", [9e-6, 1e-6, 1e-6, 3e-6]))
    assert ceilings.overhead(rows)["overhead_s"].tolist() == [1e-6]


def test_the_summary_sets_the_ceilings_beside_the_datasheet(tmp_path):
    environment = synthetic.gpu(accelerator="NVIDIA H200", machine="nvidia-h200")
    rates = {("cuda", "bf16"): 790e12, ("cpu", "fp32"): 400e9}
    synthetic.write(tmp_path, environment, {}, flop_per_s=rates, byte_per_s=4e12)
    text = ceilings.summary(store.ceilings("nvidia-h200", tmp_path), environment).replace("\u00a0", " ")
    # The table's dense bf16 peak of an H200 is 989.4 TFLOP/s: 790 are 80 %.
    # The data sheet prints 1979 TFLOPS with sparsity: 989.5 dense.
    assert "cuda bf16: 790 TFLOP/s, 80% of 990 TFLOP/s" in text
    assert "cpu fp32: 400 GFLOP/s (conv1x1, 1024)" in text  # a processor that the table doesn't know
    assert "cuda memory: " in text
    assert "1.00 µs" in text


def test_a_cpus_peak_counts_the_cores_in_use_at_the_clock_seen():
    from src import chips

    row = next(r for r in chips.rows() if r["chip"] == "AMD EPYC 9654" and r["precision"] == "fp32")
    environment = synthetic.environment(processor="AMD EPYC 9654 96-Core Processor", clock_estimated_hz=3.5e9)
    peak = ceilings.datasheet_peak(environment, "cpu", "fp32")
    assert peak == 2 * row["flop_per_cycle_per_unit"] * 3.5e9


SMALL = [c for p in ("fp32", "bf16", "int8") for c in ceilings.compute_candidates("cpu", p) if c.flop < 1e9]


@pytest.mark.parametrize("candidate", SMALL, ids=lambda c: f"{c.kernel} {c.shape} {c.precision}".replace(" ", "_"))
def test_every_kernel_does_the_flop_that_it_counts(candidate):
    """Against torch's own counter, on the meta device; int8 products, which it doesn't know, against their output."""
    from torch.utils.flop_counter import FlopCounterMode

    if candidate.precision == "int8":
        m, k, n = map(int, candidate.shape.split("x"))
        assert candidate.build("cpu")().shape == (m, n)
        assert candidate.flop == 2 * m * k * n
        return
    call = candidate.build("cpu")
    with FlopCounterMode(display=False) as counter:
        call()
    assert counter.get_total_flops() == candidate.flop


def test_every_precision_of_a_device_has_several_kernels_and_shapes():
    for device, precisions in ceilings.PRECISIONS.items():
        for precision in precisions:
            found = ceilings.compute_candidates(device, precision)
            assert len({candidate.key for candidate in found}) == len(found) >= 7
            assert [c.flop for c in found] == sorted(c.flop for c in found)
            if precision in ("fp32", "bf16"):
                kernels = {candidate.kernel for candidate in found}
                assert {"mm", "linear", "addmm", "convolution 1x1, channels-last", "convolution 3x3"} <= kernels


@pytest.mark.parametrize("size", [2**14, 2**17, 2**21, 2**25])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_streams_cover_their_working_set_and_count_their_bytes(size, threads):
    for candidate in ceilings.bandwidth_candidates("cpu", size, threads):
        arrays, accesses = ceilings._STREAMS[candidate.kind]
        elements = candidate.bytes_moved / 4 / accesses
        repeats = max(1, min(32, int(math.sqrt(ceilings.REPEATED_BYTES / size))))
        # One pass over each array covers its share of the working set, but for rounding to cache lines.
        assert elements / repeats**2 == pytest.approx(size / 4 / arrays, rel=0.1)


def test_a_stream_on_overlapping_rows_does_what_it_says():
    for kernel in ("copy", "triad", "update", "sum", "amax"):
        call = ceilings._stream(kernel, 2, 64, 3)("cpu")
        result = call()
        if kernel == "sum":
            assert result.item() == 2 * 3 * 3 * 64  # ones
        elif kernel == "triad":
            # A view whose rows overlap: every element is written with 1 + 3 x 1.
            assert torch.equal(result, torch.full((2, 3, 3, 64), 1 + ceilings.TRIAD_SCALAR))
        else:
            assert result.max().item() == 1.0


def test_working_sets_reach_from_the_first_cache_well_out_of_the_last():
    sizes = ceilings.working_sets("cpu", 16 * 2.0**30, 2.0**25)
    assert sizes[0] <= 2**15
    assert sizes[-1] >= 8 * 2**25
    assert sizes == sorted(set(sizes))
    assert ceilings.working_sets("cpu", 2.0**30, 2.0**25)[-1] <= 2**27  # an eighth of the memory


def test_measuring_writes_rows_resumes_and_leaves_out_what_the_device_refuses(tmp_path, monkeypatch):
    def refuses(device: str):
        raise RuntimeError("not implemented for 'Int'\nmore")

    good = ceilings.Candidate("compute", "good", "1", "fp32", lambda device: lambda: None, flop=1.0)
    bad = ceilings.Candidate("compute", "bad", "1", "fp32", refuses, flop=1.0)
    worse = ceilings.Candidate("compute", "bad", "2", "fp32", refuses, flop=2.0)
    monkeypatch.setattr(ceilings, "compute_candidates", lambda device, precision: [good, bad, worse])
    monkeypatch.setattr(ceilings, "PROBE", ceilings.timing.Plan(budget_s=0.05, minimum=3, maximum=3))
    monkeypatch.setattr(ceilings, "FINAL", ceilings.timing.Plan(budget_s=0.05, minimum=5, maximum=5))
    lines = []
    for _ in range(2):
        with store.lock(tmp_path):
            ceilings.measure(tmp_path, "cpu", precisions=["fp32"], parts=["compute"],
                             environment=synthetic.environment(), log=lines.append)  # fmt: skip
    rows, faults = store.read_rows(tmp_path / "ceilings.jsonl", schema.CEILINGS)
    assert faults == []
    assert {row["kernel"] for row in rows} == {"good"}
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert sum(not row["is_warmup"] for row in rows) == 8  # three probed, five more as a finalist, none the second time
    assert sum("bad 1" in line and "not implemented" in line for line in lines) == 2
    assert not any("bad 2" in line for line in lines)  # a kernel that refuses its smallest shape is not tried again


def test_a_spent_budget_stops_measuring(tmp_path):
    with store.lock(tmp_path):
        ceilings.measure(tmp_path, "cpu", budget_s=0.0, environment=synthetic.environment())
    assert store.read_rows(tmp_path / "ceilings.jsonl", schema.CEILINGS) == ([], [])


def test_precisions_set_and_restore_tf32():
    from src.precision import dtype, settings

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    for precision in ("fp32", "tf32"):
        with settings(precision):
            allowed = precision == "tf32"
            assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    assert dtype("tf32") == torch.float32
    with pytest.raises(ValueError, match="fp6"):
        dtype("fp6")


def test_wrong_arguments_end_in_a_sentence(capsys):
    for arguments in (["--budget", "soon"], ["--precision", "fp3"], ["--parts", "sleep"]):
        with pytest.raises(SystemExit) as exit_:
            ceilings.main(arguments)
        assert exit_.value.code == 2
    assert "'soon' is no duration" in capsys.readouterr().err
