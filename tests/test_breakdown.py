"""Tests of `src.breakdown`: attribution, parts that add up, what is kept, and the command."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from src import benchmark, breakdown, models, schema, store, timing, trace, workload
from src.schema import Case
from tests import synthetic


class Tiny(nn.Module):
    """One layer of each common kind, in an order that attribution could get wrong."""

    input_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(self.pool(x).flatten(1))


class Wavering(Tiny):
    """A network whose first pass has other operations than those that follow."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x) if self.passes == 1 else super().forward(x) * 2


class Failing(Tiny):
    def forward(self, x):
        if not x.is_meta:
            raise RuntimeError("no kernel for this in /home/somebody/x.cpp")
        return super().forward(x)


TINY, WAVERING, FAILING = (f"tests.test_breakdown:{name}" for name in ("Tiny", "Wavering", "Failing"))


class Ticks:
    """A clock that advances by one second at each look."""

    cost_s = 0.0
    is_asynchronous = False

    def __init__(self, log=None):
        self.now, self.log = 0, log if log is not None else []

    def mark(self):
        self.log.append("mark")
        self.now += 1
        return self.now

    def synchronise(self):
        pass

    def elapsed_s(self, start, end):
        return float(end - start)


def taken(name=TINY, number=3, hold=None, log=None):
    steps = breakdown.repeats(breakdown.Step(models.get(name), 2, "cpu", "fp32"), Ticks(log), hold)
    return [next(steps) for _ in range(number)]


def test_each_operation_belongs_to_the_layer_that_made_it():
    repeat = taken()[0]
    found = {(o.phase, o.layer_type, o.module, o.name) for o, _ in repeat.operations}
    assert found == {
        ("forward", "convolution", "conv", "aten.convolution"),
        ("forward", "element-wise", "bn", "aten.add_"),  # num_batches_tracked
        ("forward", "normalisation", "bn", "aten.native_batch_norm"),
        ("forward", "activation", "", "aten.relu"),
        ("forward", "pooling", "pool", "aten.max_pool2d_with_indices"),
        ("forward", "linear", "fc", "aten.addmm"),
        ("forward", "data movement", "loss", "aten.zeros"),
        ("forward", "other", "loss", "aten._log_softmax"),
        ("forward", "other", "loss", "aten.nll_loss_forward"),
        ("backward", "data movement", "loss", "aten.ones_like"),
        ("backward", "other", "loss", "aten.nll_loss_backward"),
        ("backward", "other", "loss", "aten._log_softmax_backward_data"),
        ("backward", "linear", "fc", "aten.mm"),
        ("backward", "linear", "fc", "aten.sum"),
        ("backward", "pooling", "pool", "aten.max_pool2d_with_indices_backward"),
        ("backward", "activation", "", "aten.threshold_backward"),
        ("backward", "normalisation", "bn", "aten.native_batch_norm_backward"),
        ("backward", "convolution", "conv", "aten.convolution_backward"),
    }


def test_every_operation_is_timed_once():
    # The clock advances by 1 s a look and each operation is looked at before and after: 1 s each.
    repeat = taken()[0]
    assert {latency for _, latency in repeat.operations} == {1.0}
    # The linear layer's backward: two products (input and weight gradient) and the sum for the bias.
    listed = breakdown.rows(repeat, Case(TINY, "breakdown", 2, "cpu", "fp32"), "e")
    linear = {
        row["operation"]: (row["count"], row["latency_s"])
        for row in listed
        if row["phase"] == "backward" and row.get("layer_type") == "linear"
    }
    assert linear == {"aten.mm": (2, 2.0), "aten.sum": (1, 1.0)}


def test_repeats_are_numbered_after_a_pass_that_warms_up():
    assert [r.index for r in taken(number=3)] == [0, 1, 2]


def test_the_device_waits_before_each_operation_and_in_no_measured_time():
    log = []
    repeat = taken(number=1, hold=lambda: log.append("hold"), log=log)[0]
    holds = [place for place, what in enumerate(log) if what == "hold"]
    assert len(holds) >= len(repeat.operations)
    assert all(log[place + 1 : place + 3] == ["mark", "mark"] for place in holds)


def test_a_network_whose_operations_change_is_refused():
    with pytest.raises(breakdown.BreakdownError, match="operations"):
        taken(WAVERING, number=2)


def test_what_cannot_tell_work_from_waiting_is_refused():
    assert breakdown.hold_for("cpu") is None
    with pytest.raises(breakdown.BreakdownError, match="mps"):
        breakdown.hold_for("mps")


def test_cuda_holds_its_stream(monkeypatch):
    cycles = []
    monkeypatch.setattr(torch.cuda, "_sleep", cycles.append)
    breakdown.hold_for("cuda")()
    assert cycles == [breakdown.HOLD_CYCLES]


def test_gradients_do_not_pile_up():
    step = breakdown.Step(models.get(TINY), 2, "cpu", "fp32")
    step.forward()
    step.backward()
    first = step.module.fc.weight.grad.clone()
    step.clear()
    assert step.module.fc.weight.grad is None
    step.forward()
    step.backward()
    assert torch.equal(step.module.fc.weight.grad, first)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "mobilenet_v2", "vit_b_16"])
def test_the_device_runs_the_operations_that_were_counted(name):
    """So FLOPs and time of a layer type speak of the same operations."""
    network = models.get(name)
    step = breakdown.Step(network, 1, "cpu", "fp32")
    ran = trace.record(step.module, step.inputs, network.loss).operations
    counted = workload.count(name, 1, backward=True).operations
    key = ["phase", "name", "module", "layer_type", "flop"]
    assert [[getattr(o, k) for k in key] for o in ran] == [[getattr(o, k) for k in key] for o in counted]


# Parts and the whole


def row(phase, part, latency_s, index, layer_type=None, operation=None, is_warmup=False, count=1):
    case = vars(Case(TINY, "breakdown", 2, "cpu", "fp32"))
    return {
        "environment": "e", **case, "phase": phase, "index": index, "is_warmup": is_warmup, "part": part,
        "layer_type": layer_type, "operation": operation, "count": count, "latency_s": latency_s, "started_at": 1e9,
    }  # fmt: skip


def tiny_rows():
    """Two kept repeats and a warm-up that is far slower."""
    listed = []
    for index, scale in ((0, 100.0), (1, 1.0), (2, 3.0)):
        for phase in breakdown.PHASES:
            warm = index == 0
            listed += [
                row(phase, "whole", 10.0 * scale, index, is_warmup=warm),
                row(phase, "instrumented", 11.0 * scale, index, is_warmup=warm),
                row(phase, "operations", 4.0 * scale, index, "convolution", "aten.convolution", warm),
                row(phase, "operations", 2.0 * scale, index, "linear", "aten.mm", warm, 2),
                row(phase, "operations", 1.0 * scale, index, "linear", "aten.sum", warm),
            ]
    return listed


def test_latencies_add_up_to_the_undisturbed_pass():
    found = breakdown.summarise(tiny_rows(), workload.count(TINY, 2, backward=True))
    slices = {part.layer_type: part.latency_s for part in found.of("forward")}
    # Medians of scales 1 and 3 are 2: convolution 4 x 2, linear (2 + 1) x 2, the whole 10 x 2.
    assert slices["convolution"] == 8.0
    assert slices["linear"] == 6.0
    assert found.whole_s["forward"] == 20.0
    assert slices[breakdown.OUTSIDE] == 20.0 - 8.0 - 6.0
    assert sum(slices.values()) == found.whole_s["forward"]
    assert found.outside_share("forward") == 6.0 / 20.0
    assert found.overhead_share("forward") == pytest.approx(0.1)
    assert found.repeats == 2


def test_nothing_kept_is_an_error():
    with pytest.raises(ValueError, match="no repeat"):
        breakdown.summarise([r for r in tiny_rows() if r["is_warmup"]], workload.count(TINY, 2, backward=True))


def test_flops_by_hand():
    found = breakdown.summarise(tiny_rows(), workload.count(TINY, 2, backward=True))
    flop = {(part.phase, part.layer_type): part.flop for part in found.slices}
    # Convolution: 2 images x 64 positions x 4 channels x 27 products x 2. Its input needs no gradient: backward has
    # the weight's alone, which costs the same.
    assert flop["forward", "convolution"] == flop["backward", "convolution"] == 2 * 64 * 4 * 27 * 2
    # Linear: 2 images x 64 x 10 products x 2; backward twice that, for the input's gradient and the weight's.
    assert flop["forward", "linear"] == 2 * 64 * 10 * 2
    assert flop["backward", "linear"] == 2 * flop["forward", "linear"]
    assert sum(value for (phase, _), value in flop.items() if phase == "forward") == 27648 + 2560
    assert sum(value for (phase, _), value in flop.items() if phase == "backward") == 27648 + 5120


def test_parameters_by_hand():
    counted = workload.count(TINY, 2, backward=True)
    # fp32: convolution 4x3x3x3, batch norm weight and bias of 4, linear 64x10 and its bias of 10.
    assert breakdown.parameters(counted) == {"convolution": 432, "normalisation": 32, "linear": 2600}


class Two(nn.Module):
    """Two linear layers with nothing between: few enough tensors to add up by hand."""

    input_shape = (8,)

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16, bias=False), nn.Linear(16, 10, bias=False)

    def forward(self, x):
        return self.second(self.first(x))


def test_memory_by_hand():
    counted = workload.count("tests.test_breakdown:Two", 4, backward=True, optimizer="momentum")
    owned = breakdown.memory(counted, "forward")
    # Linear: weights 8x16 and 16x10 with a momentum for each, and both layers' outputs for 4 inputs, of 4 byte each.
    assert owned["linear"] == 4 * (2 * (128 + 160) + 4 * 16 + 4 * 10)
    # The input of 4x8; the network has no buffers.
    assert owned[breakdown.OUTSIDE] == 4 * 32


@pytest.mark.parametrize("name", [TINY, "resnet18", "densenet121", "vit_b_16", "swin_t", "gpt2_prefill"])
def test_memory_adds_up_to_the_footprint(name):
    counted = workload.count(name, 2, backward=True)
    resident = counted.param_byte + counted.buffer_byte + counted.input_byte + counted.optimizer_state_byte
    held = {phase: sum(breakdown.memory(counted, phase).values()) for phase in breakdown.PHASES}
    for phase in breakdown.PHASES:
        assert held[phase] == resident + sum(counted.held_byte[phase].values())
        assert set(breakdown.memory(counted, phase)) <= {*schema.LAYER_TYPES, breakdown.OUTSIDE}
    assert max(held.values()) == counted.peak_memory_byte


@pytest.mark.parametrize("name", breakdown.MODELS)
def test_flops_add_up_to_the_count(name):
    counted = workload.count(name, 2, backward=True)
    rows = [r | {"model": name} for r in tiny_rows()]
    found = breakdown.summarise(rows, counted)
    assert sum(part.flop for part in found.of("forward")) == counted.flop
    assert sum(part.flop for part in found.of("backward")) == counted.backward_flop


def test_real_times_stay_within_the_instrumented_pass():
    step = breakdown.Step(models.get("resnet18"), 1, "cpu", "fp32")
    found = breakdown.repeats(step, timing.clock_for("cpu"))
    next(found)
    repeat = next(found)
    for phase in breakdown.PHASES:
        parts = sum(latency for operation, latency in repeat.operations if operation.phase == phase)
        assert 0.5 * repeat.instrumented_s[phase] < parts <= repeat.instrumented_s[phase]


# Measuring into a folder


class Here:
    """A worker in this process."""

    pid = 0

    def run(self, task, limit_s, *watch):
        return task()

    def close(self):
        pass


def measure(folder, names, **options):
    log = []
    with store.lock(folder):
        breakdown.measure(
            folder, "cpu", names=names, environment=synthetic.environment(), log=log.append, make_worker=Here, **options
        )
    return log


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(benchmark.TRAINING_BATCH_SIZE, "cpu", 2)


def test_measuring_keeps_raw_repeats_and_an_outcome(tmp_path, small):
    folder = tmp_path / "machine"
    measure(folder, [TINY], budget_s=5.0)
    frame = store.breakdown("machine", tmp_path)
    kept = frame[~frame["is_warmup"]]
    assert kept["index"].nunique() >= breakdown.MINIMUM_REPEATS
    for (_, _), group in kept.groupby(["index", "phase"]):
        assert sorted(group[group["part"] != "operations"]["part"]) == ["instrumented", "whole"]
    outcome = store.outcomes("machine", tmp_path).iloc[0]
    assert outcome["sweep"] == "breakdown" and outcome["status"] in ("ok", "noisy")
    summary = breakdown.summarise(frame.to_dict("records"), workload.count(TINY, 2, backward=True))
    assert sum(p.latency_s for p in summary.of("backward")) == pytest.approx(summary.whole_s["backward"])


def test_what_is_done_is_not_measured_again(tmp_path, small):
    folder = tmp_path / "machine"
    measure(folder, [TINY], budget_s=5.0)
    before = (folder / "breakdown.jsonl").read_bytes()
    assert measure(folder, [TINY], budget_s=5.0) == []
    assert (folder / "breakdown.jsonl").read_bytes() == before


def test_a_killed_run_is_taken_up_where_it_stopped(tmp_path, small):
    folder = tmp_path / "machine"
    measure(folder, [TINY], budget_s=5.0)
    (folder / "outcomes.jsonl").unlink()
    last = store.read_rows(folder / "breakdown.jsonl", schema.BREAKDOWN)[0][-1]["index"]
    measure(folder, [TINY], budget_s=5.0)
    rows, faults = store.read_rows(folder / "breakdown.jsonl", schema.BREAKDOWN)
    assert not faults
    assert min(r["index"] for r in rows if r["index"] > last) == last + 1


def test_a_failing_network_is_a_row_and_the_next_is_measured(tmp_path, small):
    folder = tmp_path / "machine"
    log = measure(folder, [FAILING, WAVERING, TINY], budget_s=10.0)
    outcomes = store.outcomes("machine", tmp_path).set_index("model")
    assert outcomes.loc[WAVERING, "status"] == "unsupported"
    assert outcomes.loc[TINY, "status"] in ("ok", "noisy")
    assert outcomes.loc[FAILING, "status"] in ("unsupported", "failed")
    assert "/home" not in outcomes.loc[FAILING, "message"]
    assert len(log) == 3


def test_no_time_means_no_measurement(tmp_path, small):
    assert "time is up" in measure(tmp_path / "machine", [TINY], budget_s=0.5)[0]


def test_batches_of_sequences_are_smaller():
    image, sequence = models.get("resnet18"), models.get("gpt2_prefill")
    assert breakdown.default_batch(image, "cpu") == benchmark.TRAINING_BATCH_SIZE["cpu"]
    assert breakdown.default_batch(sequence, "cpu") == benchmark.TRAINING_BATCH_SIZE["cpu"] // 4


def test_the_books_networks_are_of_every_family():
    families = {models.get(name).family for name in breakdown.MODELS}
    assert families == set(models.FAMILIES) - {"own"}
    assert len(breakdown.MODELS) >= 8
    assert set(breakdown.MODELS) <= set(models.MEASURED)


# The command


def test_command_prints_json_that_adds_up(capsys):
    arguments = [TINY, "--phase", "backward", "--device", "cpu", "--batch-size", "2", "--json", "--budget", "2s"]
    assert breakdown.main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["phases"]) == ["backward"]
    phase = printed["phases"]["backward"]
    assert sum(part["latency_s"] for part in phase["layer_types"]) == pytest.approx(phase["whole_s"])
    assert sum(part["flop"] for part in phase["layer_types"]) == 27648 + 5120
    assert printed["repeats"] >= breakdown.MINIMUM_REPEATS


def test_command_prints_a_table(capsys):
    assert breakdown.main([TINY, "--device", "cpu", "--batch-size", "2", "--budget", "2s"]) == 0
    text = capsys.readouterr().out
    for word in ("forward", "backward", "convolution", "linear", "whole pass", "outside layers", "100.0 %"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name one network"),
        ([TINY, "--all"], "name one network"),
        (["resnet51"], "did you mean"),
        ([TINY, "--batch-size", "0"], "batch size"),
        ([TINY, "--phase", "sideways"], "invalid choice"),
        ([TINY, "--budget", "soon"], "duration"),
    ],
)
def test_wrong_arguments_end_with_a_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        breakdown.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_network_without_training_ends_with_a_sentence(capsys):
    assert breakdown.main(["gpt2_decode", "--device", "cpu", "--budget", "1s"]) == 1
    assert "training step" in capsys.readouterr().err


def test_intervals_hold_the_median():
    found = breakdown.summarise(tiny_rows(), workload.count(TINY, 2, backward=True))
    for part in found.slices:
        assert part.latency_low_s <= part.latency_s <= part.latency_high_s or np.isclose(part.latency_s, 0)
