"""Chapters 3 and 4 rendered on altered data: sentences follow the data, and stay true.

Every machine here is made up and lives in a temporary folder. Latencies are proportional to FLOPs unless a test says
otherwise, and samples don't vary, so that what the chapters must say is known beforehand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from src import draft, schema, store, workload
from src.schema import Case
from tests import synthetic

NETWORKS = ("shufflenet_v2_x1_0", "mobilenet_v2", "alexnet", "resnet18", "resnet50")
BATCHES = (1, 64)
CHAPTERS = ("latency", "utilisation")
FLOP_PER_S = 100e9
ROOF = {("cpu", "fp32"): 400e9}
CPU, GPU = "Synthetic 1000 CPU (2 threads)", "Synthetic GPU 9"
GPU_SPEEDUP = 20

pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def proportional() -> Mapping[Case, float]:
    """Latency = FLOPs / 100 GFLOP/s: by FLOPs, every pair of networks is in order."""
    cases = synthetic.cases(NETWORKS, BATCHES)
    return {case: workload.count(case.model, case.batch_size).flop / FLOP_PER_S for case in cases}


def swapped(latencies: Mapping[Case, float], one: str, other: str) -> dict[Case, float]:
    """The same machine with the latencies of two networks exchanged."""
    names = {one: other, other: one}
    return {case: latencies[Case(**vars(case) | {"model": names.get(case.model, case.model)})] for case in latencies}


def write(root: Path, name: str) -> Path:
    """A data folder of one of the scenarios."""
    data = root / name
    (data / "machines").mkdir(parents=True)
    shutil.copy(schema.ROOT / "data" / "chips.csv", data)
    latencies: dict[Case, float | None] = dict(proportional())
    if name == "swapped":
        latencies = dict(swapped(proportional(), "mobilenet_v2", "alexnet"))
    if name == "out of memory":
        latencies[Case("resnet50", "inference", 64, "cpu", "fp32")] = None
    # Enough bandwidth that alexnet, with mobilenet_v2's latency, still reads its parameters below the roof.
    folder = synthetic.write(
        data / "machines", synthetic.environment(), latencies, spread=0.0, flop_per_s=ROOF, byte_per_s=80e9
    )
    if name == "swapped":
        break_down(folder, "resnet18")
    if name == "accelerator":
        faster = {
            Case(**vars(case) | {"device": "cuda"}): value / GPU_SPEEDUP for case, value in proportional().items()
        }
        halved = {Case(**vars(case) | {"precision": "bf16"}): value / 2 for case, value in faster.items()}
        slow = Case("alexnet", "inference", 1, "cuda", "bf16")
        faster |= halved | {slow: halved[slow] * 3}
        rates = {("cuda", "fp32"): 50e12, ("cuda", "bf16"): 200e12}
        synthetic.write(data / "machines", synthetic.gpu(), faster, spread=0.0, flop_per_s=rates, byte_per_s=4e12)
    return data


def break_down(folder: Path, model: str) -> None:
    """Add an instrumented forward pass in which convolutions take all the time that there is to lose."""
    environment = store.load(folder.name, folder.parent).environment["environment"]
    case = Case(model, "breakdown", 8, "cpu", "fp32")
    took = {"convolution": 10.0, "pooling": 1e-6}
    with store.lock(folder), store.appender(folder, "breakdown.jsonl") as rows:
        for index in range(3):
            for layer_type, latency_s in took.items():
                rows.append(vars(case) | {
                    "environment": environment, "phase": "forward", "index": index, "is_warmup": False,
                    "part": "operations", "layer_type": layer_type, "operation": f"made up {layer_type}", "count": 1,
                    "latency_s": latency_s, "started_at": synthetic.STARTED_AT,
                })  # fmt: skip


class Rendered:
    """A chapter's inline values by their expression, and its charts' specifications as one text."""

    def __init__(self, chapter: draft.Executed):
        self.values = {name: text for part in chapter.parts for name, text in part.values.items()}
        outputs = [output for part in chapter.parts for output in part.outputs]
        self.shown = json.dumps([output.get("data", {}) for output in outputs])

    def say(self, name: str) -> str:
        return self.values[f"say.{name}"].replace("\u00a0", " ").replace("\u202f", " ")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Mapping[tuple[str, str], Rendered]:
    """Every scenario's chapters, rendered two at a time."""
    root = tmp_path_factory.mktemp("altered")
    scenarios = ("in order", "swapped", "accelerator", "out of memory")
    folders = {name: write(root, name) for name in scenarios}
    wanted = [(name, chapter) for name in scenarios for chapter in CHAPTERS]

    def render(key: tuple[str, str]) -> Rendered:
        name, chapter = key
        return Rendered(draft.execute(f"chapters/{chapter}.qmd", data=folders[name]))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(render, wanted), strict=True))


def test_networks_in_order_are_said_to_be(rendered):
    chapter = rendered["in order", "latency"]
    assert "no pair of networks is out of order by FLOPs" in chapter.say("pair_flop")
    assert "FLOPs rank networks by latency closely at batch 1 and closely at batch 64" in chapter.say(
        "correlation_verdict"
    )


def test_swapped_networks_change_the_example(rendered):
    text = rendered["swapped", "latency"].say("pair_flop")
    flop = {name: workload.count(name, 1).flop for name in ("mobilenet_v2", "alexnet")}
    assert flop["mobilenet_v2"] < flop["alexnet"]
    ratio = flop["alexnet"] / flop["mobilenet_v2"]
    # Latencies were proportional to FLOPs and then exchanged, so both ratios are the same.
    assert "**mobilenet_v2** asks for" in text and "than **alexnet**" in text
    assert f"{ratio:.2g} times fewer FLOPs" in text and f"{ratio:.2g} times as long" in text
    assert "in order" not in text


def test_swap_lowers_the_correlation_with_flop(rendered):
    # Ranks 12345 against 13245: rho = 1 - 6 x (1 + 1) / (5 x 24) = 0.9, and a tenth of the ten pairs is out of order.
    assert "FLOPs 1.00" in rendered["in order", "latency"].say("correlation_reading")
    assert "FLOPs 0.90" in rendered["swapped", "latency"].say("correlation_reading")
    assert "9 of 10 (batch 1)" in rendered["swapped", "latency"].say("pair_in_order")


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_missing_accelerator_is_said_and_a_present_one_named(rendered, chapter):
    without, having = rendered["in order", chapter].say("devices"), rendered["accelerator", chapter].say("devices")
    assert "No accelerator was measured" in without and GPU not in without
    assert "No accelerator" not in having and GPU in having


def test_what_a_narrower_format_gains_is_told_apart(rendered):
    assert rendered["in order", "utilisation"].say("precision_gain") == "No precision but fp32 was measured."
    text = rendered["accelerator", "utilisation"].say("precision_gain")
    # Twice as fast but for one network at batch 1, which at three times that latency is slower by half.
    assert "the median of 10 cases runs 2.0 times as fast as in fp32" in text
    assert "0.67 times (alexnet)" in text and "the roof is 4.0 times as high" in text
    assert "1 case is slower in it beyond the intervals" in text


def test_devices_are_compared_by_what_was_measured(rendered):
    assert "nothing to compare" in rendered["in order", "latency"].say("devices_compared")
    text = rendered["accelerator", "latency"].say("devices_compared")
    assert f"{GPU_SPEEDUP} times in the median" in text and CPU in text and GPU in text


def test_accelerator_gets_a_roof_of_its_own(rendered):
    text = rendered["accelerator", "utilisation"].say("ceilings")
    assert f"On the {GPU} the best kernel achieves 50.0 TFLOP/s" in text
    assert f"On the {CPU} the best kernel achieves 400 GFLOP/s" in text
    assert "TFLOP/s" not in rendered["in order", "utilisation"].say("ceilings")


def test_case_out_of_memory_is_named_counted_and_marked(rendered):
    chapter = rendered["out of memory", "latency"]
    assert "Of 10 cases, 9 reached the interval aimed at and 1 has no latency" in chapter.say("outcomes")
    assert "resnet50 at batch 64" in chapter.say("outcomes") and "out of memory" in chapter.say("missing")
    assert "out_of_memory" in chapter.shown
    assert "4 to 5 at batch 64" in chapter.say("correlation_n")
    whole = rendered["in order", "latency"]
    assert "none is missing" in whole.say("outcomes") and "out_of_memory" not in whole.shown
    assert "resnet50 at batch 64" in rendered["out of memory", "utilisation"].say("missing")


@pytest.mark.parametrize("scenario", ["in order", "swapped", "accelerator", "out of memory"])
def test_extremes_are_those_of_the_data(rendered, scenario):
    latencies = swapped(proportional(), "mobilenet_v2", "alexnet") if scenario == "swapped" else proportional()
    single = {case.model: value for case, value in latencies.items() if case.batch_size == 1}
    text = rendered[scenario, "latency"].say("tail")
    assert (
        f"{min(single, key=single.get)} is the fastest" in text and f"{max(single, key=single.get)} the slowest" in text
    )


@pytest.mark.parametrize("scenario", ["in order", "swapped", "accelerator", "out of memory"])
def test_no_sentence_finds_a_point_above_the_roof(rendered, scenario):
    # 100 GFLOP/s of 400; exchanging alexnet and mobilenet_v2 leaves both below.
    for chapter in CHAPTERS:
        assert "defect" not in rendered[scenario, chapter].say("above_roof")


def test_loss_is_told_apart_only_where_an_instrumented_pass_was_measured(rendered):
    assert "No instrumented pass was measured" in rendered["in order", "utilisation"].say("apportioned")
    chapter = rendered["swapped", "utilisation"]
    assert chapter.say("apportioned").startswith("For resnet18 that loss is told apart")
    assert "below their roof are convolution" in chapter.say("lost_types")


def test_utilisation_is_what_the_data_imply(rendered):
    # 100 GFLOP/s achieved of 400 GFLOP/s under the flat part: 25 %.
    table = rendered["in order", "utilisation"].shown
    assert "| resnet50" in table and "25" in rendered["in order", "utilisation"].say("utilisation")
