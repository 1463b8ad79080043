"""Tests of chapter 5's findings and figures, on a made-up machine and networks small enough to add up by hand."""

import re

import pandas as pd
import pytest

from src import report, schema, store, workload
from src.breakdown import OUTSIDE, PHASES
from src.figures import training as figures
from src.findings import training as findings
from src.schema import Case
from tests import synthetic
from tests.test_breakdown import TINY

OWN = "tests.test_training:Wider"
PAIR = (TINY, OWN)


def Wider():
    """The tiny network under another name."""
    from tests.test_breakdown import Tiny

    return Tiny(), (3, 8, 8)


def write(root, environment, device="cpu", operations_s=(4.0, 3.0), models=PAIR):
    """A machine with training steps of 0.3, 0.6 and 0.1 s, and passes of 10 s forward and 16 s backward of which a
    convolution takes ``operations_s[0]`` and a linear layer ``operations_s[1]`` in either."""
    cases = {Case(model, "training", 2, device, "fp32"): 1.0 for model in models}
    folder = synthetic.write(root, environment, cases, flop_per_s={("cpu", "fp32"): 4e11, (device, "fp32"): 4e11})
    name = store.environment_id({k: environment.get(k) for k in schema.ENVIRONMENTS.names})
    with store.appender(folder, "breakdown.jsonl") as out:
        for model in models:
            for index in range(3):
                for phase, whole in (("forward", 10.0), ("backward", 16.0)):
                    common = {"environment": name, **vars(Case(model, "breakdown", 2, device, "fp32")), "phase": phase,
                              "index": index, "is_warmup": False, "started_at": 1.7e9, "count": 1}  # fmt: skip
                    out.append(common | {"part": "whole", "latency_s": whole})
                    out.append(common | {"part": "instrumented", "latency_s": 1.1 * whole})
                    kinds = (("convolution", "aten.convolution"), ("linear", "aten.mm"))
                    for (layer_type, operation), latency_s in zip(kinds, operations_s, strict=True):
                        out.append(common | {"part": "operations", "layer_type": layer_type, "operation": operation,
                                             "latency_s": latency_s})  # fmt: skip
    return folder


@pytest.fixture
def found(tmp_path):
    write(tmp_path, synthetic.environment())
    return findings.find(tmp_path)


def test_ratios_by_hand(found):
    row = found.ratios.set_index("model").loc[TINY]
    # Backward 0.6 s over forward 0.3 s of every step: no step differs, so the interval has no width.
    assert row["ratio"] == pytest.approx(2.0)
    assert row["ratio_low"] == pytest.approx(2.0) and row["ratio_high"] == pytest.approx(2.0)
    # FLOPs as in test_breakdown: convolution 27648 in either pass, linear 2560 forward and 5120 backward.
    assert row["flop_ratio"] == (27648 + 5120) / (27648 + 2560)
    assert row["spared_share"] == 27648 / (27648 + 2560)
    assert row["spared_layers"] == "conv"
    assert row["flop_ratio"] == pytest.approx(2 - row["spared_share"])


def test_only_the_first_layer_spares_flops():
    assert findings.spared_flop(workload.count("resnet18", 1, backward=True)).keys() == {"conv1"}
    assert findings.spared_flop(workload.count("gpt2_prefill", 1, backward=True)) == {}


def test_causes_add_up_by_hand(found):
    causes = found.causes[found.causes["model"] == TINY].set_index("layer_type")
    ratio = (27648 + 5120) / (27648 + 2560)
    # Each layer type's backward less r times its forward, over the 10 s of the whole forward pass.
    assert causes.loc["convolution", "added"] == pytest.approx((4 - ratio * 4) / 10)
    # Outside layers: forward 10 - 4 - 3 = 3 s, backward 16 - 4 - 3 = 9 s.
    assert causes.loc[OUTSIDE, "added"] == pytest.approx((9 - ratio * 3) / 10)
    assert causes["added"].sum() == pytest.approx(1.6 - ratio)


def test_every_pie_is_a_whole(found):
    key = ["series", "model", "phase", "quantity"]
    assert found.slices.groupby(key)["share"].sum().to_list() == pytest.approx([1.0] * 12)
    gathered = findings.gathered(found.slices)
    assert gathered.groupby(key)["value"].sum().to_list() == pytest.approx(
        found.slices.groupby(key)["value"].sum().to_list()
    )
    small = gathered[gathered["share"] < findings.SMALL_SHARE]
    assert set(small["layer_type"]) <= {findings.GATHERED}


def test_pies_hold_the_counts(found):
    mine = found.slices[found.slices["model"] == TINY]
    total = mine.groupby(["phase", "quantity"])["value"].sum()
    counted = workload.count(TINY, 2, backward=True)
    assert total["forward", "flop"] == counted.flop
    assert total["backward", "flop"] == counted.backward_flop
    assert total["forward", "latency"] == 10.0 and total["backward", "latency"] == 16.0
    assert max(total[phase, "memory"] for phase in PHASES) == counted.peak_memory_byte


def test_operations_longer_than_the_pass_leave_nothing_outside(tmp_path):
    write(tmp_path, synthetic.environment(), operations_s=(9.0, 3.0))
    found = findings.find(tmp_path)
    forward = found.slices[(found.slices["phase"] == "forward") & (found.slices["quantity"] == "latency")]
    assert set(forward.loc[forward["layer_type"] == OUTSIDE, "value"]) == {0.0}
    # 12 s of operations in a pass of 10 s: 20 % too long, which the text must say.
    assert forward.loc[forward["layer_type"] == "convolution", "share"].iloc[0] == 9 / 12
    assert "longer than the undisturbed one, by 20\u00a0% at most" in found.say.accounting


def test_overhead_is_stated(found):
    # Instrumented passes take 1.1 times as long.
    assert "10\u00a0% longer at the median" in found.say.overhead


def test_memory_components_add_up(found):
    held = found.held[found.held["model"] == TINY]
    assert held["byte"].sum() == workload.count(TINY, 2, backward=True).peak_memory_byte
    assert set(held["component"]) == set(findings.COMPONENTS)


def test_one_machine_says_that_nothing_is_compared(found):
    assert "no accelerator was measured" in found.say.devices
    assert "With one device" in found.say.devices_differ


def test_two_devices_are_compared(tmp_path):
    write(tmp_path, synthetic.environment())
    write(tmp_path, synthetic.gpu(), device="cuda")
    found = findings.find(tmp_path)
    assert list(dict.fromkeys(found.ratios["series"])) == ["Synthetic 1000 CPU (2 threads)", "Synthetic GPU 9"]
    assert "Synthetic GPU 9" in found.say.devices_differ and "With one device" not in found.say.devices_differ
    assert "device" in findings.ratio_table(found.ratios).columns
    for chart in charts(found):
        chart.to_dict()


def test_a_case_without_a_latency_is_named(tmp_path):
    write(tmp_path, synthetic.environment(machine="b"))
    folder = synthetic.write(
        tmp_path, synthetic.environment(machine="c", processor="Other CPU"),
        {Case(TINY, "training", 2, "cpu", "fp32"): None, Case(OWN, "training", 2, "cpu", "fp32"): 1.0},
    )  # fmt: skip
    assert folder.name == "c"
    found = findings.find(tmp_path)
    assert f"{TINY} on the Other CPU (2 threads) (out of memory)" in found.say.missing
    assert findings.ratio_table(found.ratios)["latency forward"].str.contains("out of memory").sum() == 1


def test_few_steps_borrow_the_widest_interval():
    table = findings._borrow_intervals(
        pd.DataFrame(
            {"n": [5, 9, 2], "ratio": [2.0, 1.0, 1.5], "ratio_low": [1.6, 0.9, 1.4], "ratio_high": [2.2, 1.1, 1.9]}
        )
    )
    # The widest of the two that have their own reaches down by a factor of 2 / 1.6 = 1.25: 1.5 / 1.25 = 1.2, and
    # 1.5 x 1.25 = 1.875, short of the 1.9 that a step reached.
    assert table["ratio_low"].to_list() == pytest.approx([1.6, 0.9, 1.2])
    assert table["ratio_high"].to_list() == pytest.approx([2.2, 1.1, 1.9])


def test_nothing_measured_is_said(tmp_path):
    with pytest.raises(findings.NothingMeasured, match="make measure"):
        findings.find(tmp_path)
    synthetic.write(tmp_path, synthetic.environment(), {Case(TINY, "training", 2, "cpu", "fp32"): 1.0})
    with pytest.raises(findings.NothingMeasured, match="breakdown"):
        findings.find(tmp_path)


def charts(found):
    yield figures.ratio(found.ratios)
    yield figures.causes(found.causes)
    yield figures.pies(found.slices)
    yield figures.pie_grid(found.slices)
    yield figures.bars(found.slices)
    yield figures.rates(found.points, found.roof_lines)
    yield figures.memory(found.held)


def test_the_reader_picks_among_all_networks(found):
    specification = figures.pies(found.slices).to_dict()
    bound = [param["bind"]["options"] for param in specification["params"] if "bind" in param]
    assert bound == [list(PAIR)]


def test_each_slice_has_the_books_colour():
    colours = figures.COLOURS
    assert {name: colours[name] for name in schema.LAYER_TYPES} == dict(figures.theme.LAYER_COLOURS)
    assert len(set(colours.values())) == len(colours)


def test_alternative_texts_hold_the_numbers(found):
    # The convolution's 4 s of 10 s forward, and its 27648 of 30208 FLOPs.
    assert "forward latency: convolution 40\u00a0%" in found.say.alt_pies
    assert f"forward FLOPs: convolution {report.percent(27648 / 30208)}" in found.say.alt_pies


def test_the_chapter_asks_for_nothing_that_is_missing(found):
    text = (schema.ROOT / "chapters" / "training.qmd").read_text(encoding="utf-8")
    asked = set(re.findall(r"\{python\} say\.(\w+)", text))
    assert asked and asked <= set(vars(found.say))
    assert all(isinstance(value, report.Text) and value for value in vars(found.say).values())


def test_kinds_of_the_first_series(found):
    kinds = found.kinds.set_index("layer_type")
    assert kinds.loc["convolution", "forward_latency"] == 0.4
    assert kinds.loc["linear", "backward_latency"] == 3 / 16
    # The made-up machine: 4e11 FLOP/s over 40e9 byte/s.
    assert kinds["ridge"].to_list() == pytest.approx([10.0] * len(kinds))


def test_a_network_that_is_not_known_here_is_left_out(tmp_path):
    write(tmp_path, synthetic.environment(), models=(TINY, "nowhere.to:be_found"))
    assert set(findings.find(tmp_path).ratios["model"]) == {TINY}
