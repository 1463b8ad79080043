"""Sweeps, with workers that only pretend: what is run, in which order, for how long, and what is written."""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from src import benchmark, command, machine, schema, steps, store, timing, workers
from src.schema import Case
from tests import synthetic

TINY = "tests.own_networks:tiny"
A, B, C = (Case(name, "inference", 1, "cpu", "fp32") for name in ("resnet18", "alexnet", "vgg16"))


class FakeWorker:
    """Writes the samples that a script gives for a case, as a real worker would, and moves no real time."""

    def __init__(self, script):
        self.script, self.tasks, self.pid, self.closed = script, [], os.getpid(), 0

    def run(self, task, limit_s, watch=lambda: None, watch_s=1.0):
        if isinstance(task, str):
            return [(1.7e9, 0.01)] * 10
        self.tasks.append(task)
        answer = self.script(task)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            return answer
        with store.appender(Path(task.folder), "samples.jsonl") as out:
            for offset, latency_s in enumerate([answer[0], *answer]):
                index, is_warmup = task.first_index + offset, offset == 0
                taken = timing.Sample(index, is_warmup, 1, {"inference": latency_s}, None, 1.7e9)
                for row in workers.sample_rows(task, taken):
                    out.append(row)
        sampled = timing.summarise((), answer, task.plan, "budget", 1.0)
        return {"status": sampled.status, "stop_reason": sampled.stop_reason}

    def close(self):
        self.closed += 1


def sweep(folder, cases, script, **options):
    worker = FakeWorker(script)
    options = {"rounds": 1} | options
    with store.lock(folder):
        outcomes = benchmark.sweep(
            folder, cases, "cpu", environment=synthetic.environment(), make_worker=lambda: worker, **options
        )
    return outcomes, worker


def rows(folder, file="outcomes.jsonl"):
    found, faults = store.read_rows(folder / file, store.FILES[file])
    assert faults == []
    return found


def test_each_case_gets_an_outcome_and_is_not_measured_twice(tmp_path):
    outcomes, worker = sweep(tmp_path, [A, B], lambda task: [0.1] * 5)
    assert [task.case for task in worker.tasks] == [A, B]
    assert {case: row["status"] for case, row in outcomes.items()} == {A: "ok", B: "ok"}
    again, idle = sweep(tmp_path, [A, B, C], lambda task: [0.2] * 5)
    assert [task.case for task in idle.tasks] == [C]
    assert len(again) == 3
    assert len(rows(tmp_path)) == 3


def test_the_reference_is_timed_at_start_middle_and_end(tmp_path):
    sweep(tmp_path, [A, B], lambda task: [0.1] * 5)
    positions = [row["position"] for row in rows(tmp_path, "drift.jsonl")]
    assert positions == ["start"] * 10 + ["middle"] * 10 + ["end"] * 10


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ({"status": "out_of_memory", "message": "too large"}, "out_of_memory", "too large"),
        ({"status": "unsupported", "message": "no kernel"}, "unsupported", "no kernel"),
        (workers.WorkerEnded(-signal.SIGKILL), "out_of_memory", "SIGKILL"),
        (workers.WorkerEnded(-signal.SIGSEGV), "failed", "SIGSEGV"),
        (workers.WorkerEnded(3), "failed", "exit code 3"),
        (TimeoutError(), "over_budget", "ended after"),
    ],
)
def test_a_case_that_fails_is_a_row_and_the_sweep_goes_on(tmp_path, answer, status, words):
    outcomes, _ = sweep(tmp_path, [A, B], lambda task: answer if task.case == A else [0.1] * 5)
    assert outcomes[A]["status"] == status
    assert words in outcomes[A]["message"]
    assert outcomes[B]["status"] == "ok"
    assert store.read_rows(tmp_path / "samples.jsonl", schema.SAMPLES)[0][0]["model"] == B.model


def test_a_case_cut_off_while_sampling_keeps_its_samples(tmp_path):
    def script(task):
        FakeWorker(lambda task: [0.1] * 3).run(task, 1.0)
        return TimeoutError()

    outcomes, _ = sweep(tmp_path, [A], script)
    assert (outcomes[A]["status"], outcomes[A]["stop_reason"]) == ("too_few", "budget")


def test_a_folder_that_cannot_be_written_ends_the_sweep(tmp_path):
    with pytest.raises(store.StoreError, match="disk"):
        sweep(tmp_path, [A, B], lambda task: store.StoreError("disk full"))


def test_a_killed_case_carries_on_with_its_samples(tmp_path):
    def killed(task):
        FakeWorker(lambda task: [0.1] * 3).run(task, 1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, [A], killed)
    _, worker = sweep(tmp_path, [A], lambda task: [0.1] * 2)
    assert worker.tasks[0].first_index == 4
    assert [row["index"] for row in rows(tmp_path, "samples.jsonl")] == [0, 1, 2, 3, 4, 5, 6]
    assert rows(tmp_path)[-1]["status"] == "ok"  # three and two samples are enough


def test_a_limited_budget_is_shared_and_then_spent_where_it_narrows_most(tmp_path):
    noisy = [0.1, 0.2, 0.3, 0.4, 0.5]
    seen: dict[Case, int] = {}

    def script(task):
        seen[task.case] = seen.get(task.case, 0) + 1
        if task.case == A:
            return [0.1] * 5
        if task.case == B:
            return noisy if seen[B] == 1 else [0.3] * 200
        return [1.0, 1.02, 1.1, 0.95, 1.0]

    outcomes, worker = sweep(tmp_path, [A, B, C], script, budget_s=60.0, case_budget_s=10.0)
    assert [task.case for task in worker.tasks][:4] == [A, B, C, B]  # B's interval is the widest and its calls cheap
    assert outcomes[B]["status"] == "ok"
    assert all(task.plan.budget_s <= 10.0 for task in worker.tasks[:3])


def test_an_unlimited_run_measures_each_case_once(tmp_path):
    _, worker = sweep(tmp_path, [A], lambda task: [0.1, 0.2, 0.3, 0.4, 0.5])
    assert len(worker.tasks) == 1


def test_a_case_that_cannot_fit_into_what_is_left_is_over_budget(tmp_path):
    large = Case(A.model, "inference", 1000, "cpu", "fp32")
    outcomes, worker = sweep(tmp_path, [A, large], lambda task: [0.1] * 5, budget_s=100.0)
    # 0.1 s an input makes 100 s a call, twice of which does not fit into 100 s.
    assert [task.case for task in worker.tasks] == [A]
    assert outcomes[large]["status"] == "over_budget"
    assert "one call takes about 100 s" in outcomes[large]["message"]
    more, worker = sweep(tmp_path, [A, large], lambda task: [90.0] * 5, budget_s=1000.0)
    assert [task.case for task in worker.tasks] == [large]
    assert more[large]["status"] == "ok"


def test_a_batch_that_cannot_fit_into_memory_is_not_tried(tmp_path, monkeypatch):
    # Batch 1 needed 1 GB beyond the network's own: batch 64 needs 64 GB, and 10 GB are free.
    monkeypatch.setattr(machine, "available_memory_byte", lambda: 10e9)
    memory = {"status": "ok", "stop_reason": "interval", "peak_memory_byte": 1.5e9, "model_memory_byte": 0.5e9}
    larger = [Case(A.model, "inference", size, "cpu", "fp32") for size in (1, 4, 64)]
    outcomes, worker = sweep(tmp_path, larger, lambda task: memory)
    assert [task.case.batch_size for task in worker.tasks] == [1, 4]
    assert outcomes[larger[2]]["status"] == "out_of_memory"
    assert "not tried: going by batch 4" in outcomes[larger[2]]["message"]


def test_busy_cases_are_measured_anew_on_request_and_their_old_samples_no_longer_count(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "busyness", lambda before, after: machine.Busyness(0.0, 5.0))
    sweep(tmp_path, [A], lambda task: [9.0] * 5)
    assert rows(tmp_path)[-1]["is_busy"] is True
    monkeypatch.setattr(machine, "busyness", lambda before, after: machine.Busyness(0.0, 0.0))
    _, idle = sweep(tmp_path, [A], lambda task: [1.0] * 5)
    assert idle.tasks == []
    _, worker = sweep(tmp_path, [A], lambda task: [1.0] * 5, again="busy")
    assert worker.tasks[0].attempt == 2
    assert len(rows(tmp_path, "samples.jsonl")) == 12  # nothing is thrown away
    name = store.environment_id(synthetic.environment())
    current = store.progress(tmp_path, name).samples[A]
    assert [row["latency_s"] for row in current] == [1.0] * 6
    assert store.load(tmp_path.name, tmp_path.parent).samples["latency_s"].tolist() == [1.0] * 6
    _, worker = sweep(tmp_path, [A], lambda task: [1.0] * 5, again="busy")
    assert worker.tasks == []


def test_a_sweep_goes_round_and_all_samples_of_a_case_count(tmp_path):
    seen = []

    def script(task):
        seen.append((task.case, task.first_index))
        return [0.15] * 5 if len(seen) == 4 else [0.1] * 5

    outcomes, worker = sweep(tmp_path, [A, B], script, rounds=3, case_budget_s=30.0)
    # One after the other, so that what slows the machine for some seconds does not meet one case alone.
    assert seen == [(A, 0), (B, 0), (A, 6), (B, 6), (A, 12), (B, 12)]
    assert [task.plan.budget_s for task in worker.tasks[:2]] == [10.0] * 2
    assert [task.plan.patience_s for task in worker.tasks[:2]] == [180.0] * 2
    # What a visit left over goes to those after it: here, no real time passes.
    assert [round(task.plan.budget_s) for task in worker.tasks[2:]] == [15, 15, 30, 30]
    # Every visit to A agrees; one of B's three takes half as long again: its median is known no better than that.
    assert (outcomes[A]["status"], outcomes[A]["stop_reason"]) == ("ok", "interval")
    assert (outcomes[B]["status"], outcomes[B]["stop_reason"]) == ("noisy", "budget")
    assert len(rows(tmp_path, "samples.jsonl")) == 36
    positions = [row["position"] for row in rows(tmp_path, "drift.jsonl")]
    assert positions == ["start"] * 10 + ["middle"] * 10 + ["end"] * 10
    _, idle = sweep(tmp_path, [A, B], script, rounds=3, case_budget_s=30.0)
    assert idle.tasks == []


def test_a_sweep_killed_on_its_second_round_carries_on_there(tmp_path):
    def script(task):
        if task.first_index and task.case == B:
            raise KeyboardInterrupt
        return [0.1] * 5

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, [A, B], script, rounds=2, case_budget_s=30.0)
    _, worker = sweep(tmp_path, [A, B], lambda task: [0.1] * 5, rounds=2, case_budget_s=30.0)
    assert [(task.case, task.first_index) for task in worker.tasks] == [(B, 6)]


def test_a_later_visit_that_fails_takes_nothing_away(tmp_path):
    lines = []
    outcomes, _ = sweep(
        tmp_path, [A], lambda task: workers.WorkerEnded(-signal.SIGKILL) if task.first_index else [0.1] * 5,
        rounds=2, case_budget_s=30.0, log=lines.append,
    )  # fmt: skip
    assert outcomes[A]["status"] == "ok"
    assert any("another visit to resnet18" in line and "out_of_memory" in line for line in lines)


def test_slow_calls_leave_no_time_for_another_visit(tmp_path):
    _, worker = sweep(tmp_path, [A], lambda task: [10.1] * 5, rounds=3, case_budget_s=30.0)
    assert len(worker.tasks) == 1


def test_of_several_visits_the_worst_state_is_kept():
    joined = benchmark._joined(
        {"status": "ok", "peak_memory_byte": 3.0, "is_busy": True, "steal_share": None},
        {"status": "noisy", "peak_memory_byte": 2.0, "is_busy": False, "steal_share": 0.1},
    )
    assert joined == {"status": "noisy", "peak_memory_byte": 3.0, "is_busy": True, "steal_share": 0.1}


def test_the_machines_state_is_written_with_the_outcome(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "busyness", lambda before, after: machine.Busyness(0.5, 0.25))
    sweep(tmp_path, [A], lambda task: [0.1] * 5)
    row = rows(tmp_path)[-1]
    assert (row["steal_share"], row["other_load"], row["is_busy"]) == (0.5, 0.25, True)


def test_what_the_accelerator_reports_is_averaged():
    states = [
        {"clock_hz": 1e9, "temperature_c": 60.0, "power_w": 400.0, "is_throttled": False},
        {"clock_hz": 2e9, "temperature_c": None, "power_w": 600.0, "is_throttled": True},
    ]
    merged = benchmark._mean_state(states)
    assert merged == {"clock_hz": 1.5e9, "temperature_c": 60.0, "power_w": 500.0, "is_throttled": True}
    assert benchmark._mean_state([]) == {}


def test_narrowing_prefers_wide_intervals_and_cheap_calls_and_leaves_narrow_ones():
    steady, wide = [1.0] * 10, [0.5, 0.8, 1.0, 1.2, 1.5]
    assert benchmark.narrowing_per_s(steady, 0.02) == 0.0
    assert benchmark.narrowing_per_s(wide, 0.02) > 0
    cheap, dear = [value / 100 for value in wide], [value * 100 for value in wide]
    gains = [benchmark.narrowing_per_s(values, 0.02) for values in (cheap, wide, dear)]
    assert gains == sorted(gains, reverse=True)
    assert benchmark.narrowing_per_s([1.0, 1.0], 0.02) > 0  # too few


# What one case does


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
         "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError('"addmm_impl" not implemented for \'Half\''), "unsupported"),
        (NotImplementedError("Could not run 'aten::x' with arguments from the 'MPS' backend"), "unsupported"),
        (RuntimeError("shapes cannot be multiplied"), "failed"),
    ],
)  # fmt: skip
def test_failures_are_told_apart(error, status):
    assert steps.classify(error)[0] == status


def test_messages_hold_one_line_and_no_path():
    _, message = steps.classify(ValueError("cannot read /home/somebody/secret/file.bin\nsecond line"))
    assert message == "ValueError: cannot read file.bin"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory_format", schema.MEMORY_FORMATS)
def test_inference_runs_in_the_precision_and_format_that_the_case_names(monkeypatch, precision, memory_format):
    seen = []
    real = torch.nn.Conv2d.forward

    def forward(self, x):
        seen.append((x, self.weight, self.training, torch.is_inference_mode_enabled()))
        return real(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    case = Case(TINY, "inference", 2, "cpu", precision, memory_format)
    sampled, memory = steps.time_case(case, timing.Plan(budget_s=0.05))
    x, weight, is_training, is_inference = seen[-1]
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    assert (x.dtype, weight.dtype, x.shape[0], is_training, is_inference) == (kind, kind, 2, False, True)
    if memory_format == "channels_last":
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert sampled.median_s > 0
    if sys.platform == "linux":
        assert memory["memory_kind"] == "resident"


@pytest.mark.parametrize("name", ["resnet18", "gpt2_prefill", "gpt2_decode", "tests.own_networks:with_inputs"])
def test_inputs_drawn_on_an_accelerator_have_the_shapes_and_types_of_the_registrys(name):
    from src import models

    class Accelerator:
        """Behaves as the CPU, but does not say so."""

        type = "pretended"

    network = models.get(name)
    wanted = network.inputs(3, "cpu", torch.float32)
    real = torch.empty

    def inputs(batch_size, device, dtype):
        return network.inputs(batch_size, "cpu" if device is pretended else device, dtype)

    pretended = Accelerator()
    stand_in = type("Stand-in", (), {"inputs": staticmethod(inputs)})
    with pytest.MonkeyPatch.context() as patch:
        # torch itself calls it as well, for a tensor of zeros on the meta device.
        patch.setattr(torch, "empty", lambda shape, device, **rest: real(
            shape, device="cpu" if device is pretended else device, **rest))  # fmt: skip
        found = steps.batch(stand_in, 3, pretended, torch.float32)
    assert [(value.shape, value.dtype) for value in found] == [(value.shape, value.dtype) for value in wanted]
    for value, reference in zip(found, wanted, strict=True):
        if not value.is_floating_point():
            assert value.max() <= max(reference.max(), network.inputs(1)[0].max())


def test_a_training_step_changes_the_weights_and_leaves_no_gradient():
    case = Case(TINY, "training", 2, "cpu", "fp32")
    parts = steps.training_steps(case, torch.device("cpu"))
    assert list(parts) == ["forward", "backward", "optimizer"]
    module = parts["optimizer"].__closure__
    parameters = next(
        cell.cell_contents.param_groups[0]["params"] for cell in module if hasattr(cell.cell_contents, "param_groups")
    )
    before = [parameter.detach().clone() for parameter in parameters]
    parts["forward"]()
    assert all(parameter.grad is None for parameter in parameters)
    parts["backward"]()
    assert all(parameter.grad is not None for parameter in parameters)
    parts["optimizer"]()
    assert all(parameter.grad is None for parameter in parameters)
    assert any(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


def test_training_times_three_phases_that_share_an_index():
    sampled, _ = steps.time_case(Case(TINY, "training", 2, "cpu", "fp32"), timing.Plan(budget_s=0.1))
    assert all(set(taken.latency_s) == {"forward", "backward", "optimizer"} for taken in sampled.samples)
    task = workers.Task(A, timing.Plan(), "x", "e")
    found = list(workers.sample_rows(task, sampled.samples[0]))
    assert [row["phase"] for row in found] == ["forward", "backward", "optimizer"]
    assert {row["index"] for row in found} == {0}


def test_decoding_has_no_training_step():
    with pytest.raises(NotImplementedError, match="no training step"):
        steps.training_steps(Case("gpt2_decode", "training", 1, "cpu", "fp32"), torch.device("meta"))


class FakeCuda:
    """What capturing a graph asks of torch.cuda, written down."""

    def __init__(self):
        self.log, self.stack = [], ["main"]

    def Stream(self):
        return FakeStream(self, "side")

    def current_stream(self):
        return FakeStream(self, self.stack[-1])

    def stream(self, stream):
        return Within(self, stream.name)

    def CUDAGraph(self):
        return FakeGraph(self)

    def graph(self, graph):
        return Within(self, "capture")


class FakeStream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_stream(self, other):
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class FakeGraph:
    def __init__(self, cuda):
        self.cuda = cuda

    def replay(self):
        self.cuda.log.append("replay")


class Within:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def __enter__(self):
        self.cuda.stack.append(self.name)

    def __exit__(self, *exception):
        self.cuda.stack.pop()


def test_a_graph_is_captured_after_warming_up_on_a_side_stream():
    cuda = FakeCuda()
    graph = steps.capture(lambda: cuda.log.append(f"call on {cuda.stack[-1]}") or "output", cuda, warmups=2)
    graph.replay()
    assert cuda.log == ["side waits for main", "call on side", "call on side", "main waits for side",
                        "call on capture", "replay"]  # fmt: skip
    assert graph.output == "output"


def test_memory_on_an_accelerator_is_what_the_allocator_gave():
    class Allocator:
        allocated, peak, log = 100, 100, []

        def empty_cache(self):
            self.log.append("empty")

        def reset_peak_memory_stats(self):
            self.log.append("reset")
            self.peak = self.allocated

        def memory_allocated(self):
            return self.allocated

        def max_memory_allocated(self):
            return self.peak

    cuda = Allocator()
    memory = steps.AllocatedMemory(cuda)
    cuda.allocated, cuda.peak = 400, 900  # building took more for a moment
    memory.built()
    cuda.peak = 700
    assert memory.columns() == {"peak_memory_byte": 600.0, "model_memory_byte": 300.0, "memory_kind": "allocated"}


# Real processes


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_a_worker_measures_in_a_process_of_its_own_and_reports_its_memory(tmp_path):
    case = Case("tests.test_benchmark:hungry", "inference", 4, "cpu", "fp32")
    worker = workers.Worker("cpu", 1)
    try:
        assert worker.pid != os.getpid()
        answer = worker.run(workers.Task(case, timing.Plan(budget_s=0.2), str(tmp_path), "e"), 120.0)
    finally:
        worker.close()
    # 64 Mi elements of 4 bytes are live at once, besides a little: 256 MiB.
    assert 256 * 2**20 <= answer["peak_memory_byte"] < 340 * 2**20
    assert answer["model_memory_byte"] < 64 * 2**20
    assert rows(tmp_path, "samples.jsonl")


class _Hungry(torch.nn.Module):
    def forward(self, x):
        return torch.ones(64 * 2**20) if x.device.type == "cpu" else x


def hungry():
    """A network whose every call holds 256 MiB for a moment; built on the meta device it does nothing."""
    return _Hungry(), (3,)


class _Greedy(torch.nn.Module):
    def forward(self, x):
        return torch.empty(2**46, dtype=torch.uint8)


def greedy():
    """A network that asks for 64 TiB."""
    return _Greedy(), (3,)


def test_real_exhaustion_of_memory_is_a_row_and_the_next_case_runs(tmp_path):
    cases = [Case(f"tests.test_benchmark:{name}", "inference", 1, "cpu", "fp32") for name in ("greedy", "hungry")]
    with store.lock(tmp_path):
        outcomes = benchmark.sweep(tmp_path, cases, "cpu", case_budget_s=0.2, environment=synthetic.environment())
    assert [outcomes[case]["status"] in ("ok", "noisy", "too_few") for case in cases] == [False, True]
    assert outcomes[cases[0]]["status"] == "out_of_memory"


def test_a_measuring_process_dies_with_its_supervisor_and_the_same_command_carries_on(tmp_path):
    names = ["tests.own_networks:tiny", "tests.own_networks:with_shape"]
    arguments = [sys.executable, "-m", "src.benchmark", "inference", "--models", *names, "--batch-sizes", "1", "2",
                 "--device", "cpu", "--case-budget", "0.5s", "--target", "0.0001", "--out", str(tmp_path)]  # fmt: skip
    run = subprocess.Popen(arguments, cwd=schema.ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    samples = tmp_path / "samples.jsonl"
    deadline = time.monotonic() + 120
    while not (samples.exists() and samples.stat().st_size > 2000) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.kill()
    run.wait()
    time.sleep(0.3)
    size = samples.stat().st_size
    time.sleep(0.3)
    assert samples.stat().st_size == size  # nobody goes on writing
    before, _ = store.read_rows(samples, schema.SAMPLES)
    done = subprocess.run(arguments, cwd=schema.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found, faults = store.read_rows(samples, schema.SAMPLES)
    assert faults == []
    assert found[: len(before)] == before
    assert len({schema.case_of(row) for row in rows(tmp_path)}) == 4


# Cases and the command line


def options(**changes) -> argparse.Namespace:
    base = dict.fromkeys(("models", "batch_sizes", "precision", "memory_format", "compile_mode"))
    return argparse.Namespace(**base | changes)


def test_the_default_set_holds_what_the_book_needs():
    from src import models

    found = benchmark.chosen_cases(options(), "inference", "cpu")
    fp32 = {(case.model, case.batch_size) for case in found if case.precision == "fp32"}
    assert {(name, size) for name in models.MEASURED for size in (1, 4, 16, 64, 256)} <= fp32
    assert {case.model for case in found if case.precision == "bf16"} == set(models.MEASURED)
    assert len(found) == len(set(found))
    sizes = [case.batch_size for case in found if case.precision == "fp32" and case.memory_format == "contiguous"]
    assert sizes[: len(models.MEASURED)] == [1] * len(models.MEASURED)
    cuda = benchmark.chosen_cases(options(), "inference", "cuda")
    assert {case.precision for case in cuda} >= {"fp32", "tf32", "bf16"}
    assert {case.compile_mode for case in cuda} == set(schema.COMPILE_MODES)
    assert 1024 in {case.batch_size for case in cuda}
    training = benchmark.chosen_cases(options(), "training", "cpu")
    assert len(training) >= 8 and "gpt2_decode" not in {case.model for case in training}


def test_named_options_make_every_combination_and_no_other():
    found = benchmark.chosen_cases(
        options(models=["alexnet", "gpt2_decode"], batch_sizes=[2], precision=["fp32", "bf16"],
                memory_format=["contiguous", "channels_last"]), "inference", "cpu",
    )  # fmt: skip
    assert {(case.model, case.precision, case.memory_format) for case in found} == {
        ("alexnet", "fp32", "contiguous"), ("alexnet", "bf16", "contiguous"), ("alexnet", "fp32", "channels_last"),
        ("alexnet", "bf16", "channels_last"), ("gpt2_decode", "fp32", "contiguous"),
        ("gpt2_decode", "bf16", "contiguous"),
    }  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("45", 45)])
def test_durations(text, seconds):
    assert command.duration_s(text) == seconds


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inference", "--budget", "0s"], "no duration"),
        (["inference", "--batch-sizes", "0"], "no batch size"),
        (["inference", "--models", "resnet51"], "resnet5"),
        (["sideways"], "invalid choice"),
        (["inference", "--target", "2"], "between 0 and 1"),
        (["inference", "--out", __file__], "no folder"),
    ],
)
def test_wrong_arguments_end_in_a_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        benchmark.main(arguments)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_a_folder_in_use_ends_in_a_sentence(tmp_path, capsys):
    code = "import sys, time; from pathlib import Path; from src import store\n"
    code += "with store.lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=schema.ROOT)
    try:
        holder.stdout.readline()
        with pytest.raises(SystemExit) as exit_:
            benchmark.main(["inference", "--models", TINY, "--out", str(tmp_path), "--device", "cpu"])
        assert exit_.value.code == 1
        assert f"in use by process {holder.pid}" in capsys.readouterr().err
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_renews_one_line_on_a_terminal_and_logs_elsewhere():
    outcome = {"status": "ok", "elapsed_s": 1.0}
    lines, stream = [], Terminal()
    shown = command.Progress(lines.append, stream)
    shown.start()
    shown.expect(2)
    shown.show(A, 100.0)
    shown.done(A, outcome, [0.1])
    assert "\r" in stream.getvalue() and "1/2 resnet18 inference batch 1" in stream.getvalue()
    assert "2 left" in stream.getvalue()
    assert lines == ["1/2 resnet18 inference batch 1 cpu fp32: ok 100 ms, 1 samples [1 s]"]
    quiet = io.StringIO()
    plain = command.Progress(lines.append, quiet)
    plain.start()
    plain.expect(1)
    plain.show(A, math.inf)
    plain.done(A, outcome, [])
    assert quiet.getvalue() == ""
