"""Metrics against sums done by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from src import metrics, schema
from src.findings import measured
from src.report import Estimate
from src.schema import Case

CASE = Case("a", "inference", 4, "cpu", "fp32")


def samples(case: Case, values, warmups=(), phase="inference") -> pd.DataFrame:
    rows = [
        vars(case)
        | {"phase": phase, "index": i, "is_warmup": i < len(warmups), "latency_s": value, "host_latency_s": np.nan}
        for i, value in enumerate([*warmups, *values])
    ]
    return pd.DataFrame(rows)


def outcomes(*cases_and_statuses) -> pd.DataFrame:
    extra = {"message": None, "peak_memory_byte": 1.0, "memory_kind": "resident", "power_w": np.nan, "is_busy": False,
             "is_throttled": None}  # fmt: skip
    return pd.DataFrame([vars(case) | {"status": status} | extra for case, status in cases_and_statuses])


def test_median_leaves_warmups_out_and_the_tail_is_a_sample():
    # Median of 1..5 is 3; with the warm-up of 100 it would be 3.5. 95 % of five samples is 4.75, so the fifth.
    table = metrics.latencies(samples(CASE, [1, 2, 3, 4, 5], [100]), outcomes((CASE, "ok")))
    (row,) = table.to_dict("records")
    assert (row["n"], row["latency_s"], row["latency_p95_s"]) == (5, 3.0, 5.0)
    assert row["latency_low_s"] <= 3.0 <= row["latency_high_s"] and row["has_own_interval"]


def test_tail_of_twenty_samples_is_the_nineteenth():
    table = metrics.latencies(samples(CASE, range(1, 21)), outcomes((CASE, "ok")))
    assert table["latency_p95_s"].item() == 19.0  # 0.95 x 20 = 19 samples do not exceed it


def test_case_without_samples_keeps_its_status_and_has_no_latency():
    lost = Case("a", "inference", 256, "cpu", "fp32")
    table = metrics.latencies(
        pd.concat([samples(CASE, [1] * 5), samples(lost, [9])]), outcomes((CASE, "ok"), (lost, "out_of_memory"))
    )
    row = table[table["batch_size"] == 256].iloc[0]
    # A sample taken before memory ran out is not the latency of a case that failed.
    assert row["status"] == "out_of_memory" and row["n"] == 0 and math.isnan(row["latency_s"])


def test_interrupted_case_is_kept_and_marked():
    table = metrics.latencies(samples(CASE, [1, 2]), outcomes((Case("b", "inference", 1, "cpu", "fp32"), "failed")))
    assert dict(zip(table["model"], table["status"], strict=True)) == {"a": "too_few", "b": "failed"}


def test_too_few_samples_borrow_an_interval_of_the_device():
    wide, single = Case("w", "inference", 1, "cpu", "fp32"), Case("s", "inference", 1, "cpu", "fp32")
    table = metrics.latencies(
        pd.concat([samples(wide, [8.0, 8, 8, 10, 10, 10, 10]), samples(single, [100.0])]),
        outcomes((wide, "noisy"), (single, "too_few")),
    ).set_index("model")
    # The median of `wide` is 10 and its interval reaches down to 8: 10 / 8 = 1.25 times, and there is no other case to
    # borrow from. So 100 / 1.25 and 100 x 1.25.
    assert (table.loc["w", "latency_low_s"], table.loc["w", "latency_high_s"]) == (8.0, 10.0)
    assert (table.loc["s", "latency_low_s"], table.loc["s", "latency_high_s"]) == (80.0, 125.0)
    assert not table.loc["s", "has_own_interval"]


def test_training_phases_are_summarised_apart():
    case = Case("a", "training", 8, "cpu", "fp32")
    table = pd.concat([samples(case, [1] * 5, phase="forward"), samples(case, [2] * 5, phase="backward")])
    assert metrics.latencies(table, outcomes((case, "ok")), "backward")["latency_s"].item() == 2.0
    assert metrics.latencies(table, outcomes((case, "ok")), "inference").empty


COUNTS = pd.DataFrame(
    [("a", 4, "fp32", 400.0, 10.0, 20.0, 10.0, 100.0)],
    columns=["model", "batch_size", "precision", "flop", "param_count", "activation_count", "bytes_min", "bytes_eager"],
)
CEILINGS = pd.DataFrame(
    [("m", "cpu", "fp32", 200.0, 25.0, 1000.0)],
    columns=["machine", "device", "precision", "achievable_flop_per_s", "achievable_byte_per_s", "peak_flop_per_s"],
)


def latency(values, batch_size=4) -> pd.DataFrame:
    case = Case("a", "inference", batch_size, "cpu", "fp32")
    return metrics.latencies(samples(case, values), outcomes((case, "ok"))).assign(machine="m")


def test_performance_by_hand():
    (row,) = metrics.performance(latency([8.0] * 5), COUNTS, CEILINGS).to_dict("records")
    assert row["throughput_per_s"] == 0.5  # 4 inputs / 8 s
    assert row["latency_per_input_s"] == 2.0
    assert row["achieved_flop_per_s"] == 50.0  # 400 / 8
    assert (row["intensity_eager"], row["intensity_min"]) == (4.0, 40.0)  # 400 / 100, 400 / 10
    assert row["attainable_eager_flop_per_s"] == 100.0  # min(200, 25 x 4)
    assert row["attainable_min_flop_per_s"] == 200.0  # min(200, 25 x 40)
    assert (row["utilisation"], row["utilisation_min"], row["mfu"]) == (0.5, 0.25, 0.05)
    assert row["roof_latency_s"] == 2.0  # max(400 / 200, 10 / 25)


def test_memory_bound_is_told_by_the_ridge():
    table = metrics.performance(latency([8.0] * 5), COUNTS, CEILINGS)  # ridge 200 / 25 = 8, between 4 and 40
    assert metrics.is_memory_bound(table, "eager").item() and not metrics.is_memory_bound(table, "min").item()


def test_counts_of_another_batch_size_are_never_used():
    with pytest.raises(metrics.MissingCountError, match="a, batch 64, fp32"):
        metrics.performance(latency([8.0] * 5, batch_size=64), COUNTS, CEILINGS)


def test_point_above_the_roof_is_named():
    assert metrics.above_roof(metrics.performance(latency([2.0] * 5), COUNTS, CEILINGS)) == []  # on the roof
    (name,) = metrics.above_roof(metrics.performance(latency([1.9] * 5), COUNTS, CEILINGS))
    assert name.startswith("a at batch 4, fp32 on m (cpu)") and "roof 200 FLOP/s" in name


def test_estimate_carries_the_latency_interval_over():
    row = {"latency_s": 2.0, "latency_low_s": 1.0, "latency_high_s": 4.0, "throughput_per_s": 8.0}
    assert metrics.estimate(row) == Estimate(2.0, 1.0, 4.0)
    assert metrics.estimate(row, "throughput_per_s") == Estimate(8.0, 4.0, 16.0)  # 8 / (4 / 2), 8 / (1 / 2)


def test_saturation_is_the_smallest_batch_near_the_best():
    table = pd.DataFrame(
        [("m", "cpu", "fp32", "a", batch, rate) for batch, rate in ((1, 10.0), (16, 95.0), (64, 100.0), (256, np.nan))]
        + [("m", "cpu", "fp32", "b", batch, rate) for batch, rate in ((1, 10.0), (64, 20.0))],
        columns=["machine", "device", "precision", "model", "batch_size", "throughput_per_s"],
    )
    found = metrics.saturation(table).set_index("model")
    assert found["saturation_batch_size"].to_dict() == {"a": 16, "b": 64}  # 95 >= 0.95 x 100
    assert found["is_rising"].to_dict() == {"a": False, "b": True}


def test_rank_correlation_is_never_pooled_over_batch_sizes():
    # Within each batch size x and y run in opposite directions; pooled they would seem to agree.
    table = pd.DataFrame({"batch_size": [1, 1, 1, 2, 2, 2], "x": [1, 2, 3, 11, 12, 13], "y": [3, 2, 1, 13, 12, 11]})
    found = metrics.rank_correlations(table, ["x", "y"])
    assert found["batch_size"].tolist() == [1, 2]
    assert found["spearman"].tolist() == pytest.approx([-1.0, -1.0])
    assert found["kendall"].tolist() == pytest.approx([-1.0, -1.0])
    assert found["n"].tolist() == [3, 3]


def test_rank_correlation_of_four_networks_by_hand():
    # Ranks 1234 against 2134: rho = 1 - 6 x (1 + 1) / (4 x 15) = 0.8; one of six pairs out of order: tau = 4 / 6.
    table = pd.DataFrame({"batch_size": 1, "x": [1.0, 2, 3, 4], "y": [2.0, 1, 3, 4]})
    row = metrics.rank_correlations(table, ["x", "y"]).iloc[0]
    assert row["spearman"] == pytest.approx(0.8) and row["kendall"] == pytest.approx(4 / 6)
    assert row["spearman_low"] < 0.8 <= row["spearman_high"] == pytest.approx(1.0)


def test_rank_correlation_needs_three_networks_and_skips_missing_ones():
    table = pd.DataFrame({"batch_size": 1, "x": [1.0, 2, 3], "y": [2.0, np.nan, 3]})
    row = metrics.rank_correlations(table, ["x", "y"]).iloc[0]
    assert row["n"] == 2 and math.isnan(row["spearman"])


def test_bootstrap_agrees_with_scipy_on_an_actual_resample():
    random = np.random.default_rng(3)
    x, y = random.random(9), random.random(9)
    chosen = random.integers(9, size=9)
    weights = np.bincount(chosen, minlength=9).astype(float)[None]
    assert metrics._spearman(x, y, weights)[0] == pytest.approx(stats.spearmanr(x[chosen], y[chosen]).statistic)
    assert metrics._kendall(x, y, weights)[0] == pytest.approx(stats.kendalltau(x[chosen], y[chosen]).statistic)


def test_statuses_with_samples_are_among_the_schema_s():
    assert set(metrics.SAMPLED) < set(schema.STATUSES)


def test_no_measured_point_lies_above_its_achievable_roof():
    """Over the committed machines; a failure names the points, each a defect to explain."""
    try:
        found = measured.load()
    except measured.NothingMeasured:
        pytest.skip("no machine has been measured yet")
    assert metrics.above_roof(pd.concat([found.cases, found.variants])) == []
