"""The chapter on workloads: its verdicts by hand, and that prose, figures and findings fit together."""

from __future__ import annotations

import pytest

from src import book, models, theme, workload
from src.figures import workloads as figures
from src.findings import workloads as findings
from src.report import Text

NAMES = ("alexnet", "resnet18", "mobilenet_v2", "gpt2_prefill", "gpt2_decode")
TARGET = {"flop_per_s": 100.0, "byte_per_s": 10.0, "precision": "fp32"}  # ridge point 10 FLOP/byte


@pytest.fixture(scope="module")
def table():
    return findings.counts(NAMES)


@pytest.fixture(scope="module")
def targets():
    return findings.targets()


@pytest.mark.parametrize(
    ("eager", "most", "expected"),
    [(1, 9, "memory-bound"), (1, 10, "either"), (9.9, 50, "either"), (10, 50, "compute-bound")],
)
def test_verdict_by_hand(eager, most, expected):
    assert findings.verdict(eager, most, TARGET) == expected


def test_networks_are_ordered_by_flop_per_input(table):
    flop = {name: workload.count(name).flop for name in NAMES}
    assert findings.order(table) == sorted(NAMES, key=flop.__getitem__)


def test_intensity_is_that_of_the_batch_and_precision_at_hand(table):
    for batch_size, precision in ((1, "fp32"), (256, "fp32"), (64, "bf16")):
        row = findings.at(table, batch_size, precision).set_index("model").loc["resnet18"]
        counted = workload.count("resnet18", batch_size, precision)
        assert row["intensity_eager"] == counted.flop / counted.bytes_eager
        assert row["intensity_max"] == counted.flop / counted.bytes_min


def test_shares_of_layer_types_add_up():
    shares = findings.traffic(("resnet18", "gpt2_decode")).groupby(["model", "quantity"])["share"].sum()
    assert shares.between(1 - 1e-12, 1 + 1e-12).all() and len(shares) == 4


def test_ranges_end_on_the_roof(table):
    found = findings.ranges(table, TARGET)
    # min(100, 10 x intensity)
    assert (found["attainable_eager_flop_per_s"] == (10 * found["intensity_eager"]).clip(upper=100)).all()


def test_targets_hold_one_chip_of_each_kind(targets):
    datasheet = targets[targets["source"] == "datasheet"]
    assert set(datasheet["kind"]) == {"CPU", "GPU", "ASIC", "SoC"}
    assert (targets["ridge_flop_per_byte"] == targets["flop_per_s"] / targets["byte_per_s"]).all()


def test_prose_quotes_what_findings_say(table, targets):
    full = findings.counts(("mobilenet_v2", "vit_b_16", *NAMES[-2:]))
    rows, times = findings.load_counters()
    say = findings.say(full, targets, findings.verdicts(full, targets), rows, times)
    assert all(isinstance(value, Text) and value for value in vars(say).values())
    quoted = {
        expression.removeprefix("say.")
        for part in book.parts("chapters/workloads.qmd")
        for expression, _ in part.expressions()
        if expression.startswith("say.")
    }
    assert quoted - set(vars(say)) == set()


def test_figures_draw(table, targets):
    order, domain = findings.order(table), findings.domain(table, targets)
    cpu, gpu = findings.at_hand(targets, "CPU"), findings.at_hand(targets, "GPU")
    from src import chips

    roofs = findings.chip_roofs(chips.load(), *domain)
    charts = (
        figures.overview(findings.overview(table), order),
        figures.paths(findings.paths(table), findings.ridges(cpu, gpu), order),
        figures.roofline(findings.roof(cpu, domain), findings.ranges(table, cpu), order, 1.0, domain),
        figures.any_chip(roofs, findings.chip_ranges(table), order, findings.first_choice(roofs, gpu), domain),
        figures.verdicts(findings.verdicts(table, targets), order, list(targets["target"])),
        figures.layers(findings.layers(("resnet18",)), order, findings.ridge_lines(cpu, gpu)),
        figures.traffic(findings.traffic(NAMES), order),
    )
    for chart in charts:
        drawn = theme.show(chart).svg
        assert drawn.startswith("<svg") and "NaN" not in drawn


def test_the_counters_tables_name_every_cause():
    rows, _ = findings.load_counters()
    causes = findings.causes(rows)
    assert "counts it differently" not in set(causes["What it does"])
    assert list(findings.counters(rows)["Network"]) == list(models.MEASURED)
