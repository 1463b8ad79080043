"""Chapter 3's tables and sentences: how long networks take, and what tells it beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from src import metrics, predict, report
from src.findings import measured as shared
from src.findings.measured import Measured, Series
from src.report import Estimate, Text

COUNTS = {
    "flop": "FLOPs", "param_count": "parameters", "activation_count": "activations", "bytes_eager": "eager bytes",
}  # fmt: skip
"""What a network can be described by without any hardware, and what prose calls it."""

ESTIMATE = "roofline estimate"
CLOSE, ROUGH = 0.9, 0.7
"""From these rank correlations on, prose says that one thing ranks networks closely, or roughly, like another."""

METHODS = {
    "estimate_s": "roofline of each operation, nothing fitted",
    "fitted_s": "the same with three fitted factors",
    "flop_s": "FLOPs times a fitted constant",
    "bytes_s": "eager bytes times a fitted constant",
    "param_s": "parameters times a fitted constant",
}
"""Ways to predict latency; all but the first are fitted to the other networks and judged on the one left out. The
constants are fitted for each batch size apart, the three factors for all batch sizes together."""


@dataclass(frozen=True)
class Found:
    """What the chapter shows (tidy tables, one a figure) and says (named sentences)."""

    batches: list[int]
    all_batches: list[int]
    devices: dict[str, str]
    cases: pd.DataFrame
    shown: pd.DataFrame
    lines: pd.DataFrame
    correlations: pd.DataFrame
    variables: list[str]
    pairs: pd.DataFrame
    composition: pd.DataFrame
    errors: pd.DataFrame
    tail: pd.DataFrame
    saturation: pd.DataFrame
    saturation_table: pd.DataFrame
    say: SimpleNamespace


def find(root: Path | None = None) -> Found:
    """Everything that chapter 3 shows and says, from the machines in ``root`` (default: ``data/machines/``)."""
    whole = shared.load(root)
    measured = whole.at(whole.common_precision)
    batches = shared.shown_batches(measured.cases)
    cases = with_predictions(measured)
    shown = cases[cases["batch_size"].isin(batches)]
    correlations, variables = correlate(shown, measured.series)
    pairs = out_of_order(shown, measured.series)
    saturation = metrics.saturation(cases, ("series", "model"))
    errors = prediction_errors(cases, measured.series)
    return Found(
        batches=batches,
        all_batches=sorted({int(size) for size in cases["batch_size"]}),
        devices={one.label: one.device for one in measured.series},
        cases=cases,
        shown=shown,
        lines=roof_lines(measured),
        correlations=correlations,
        variables=variables,
        pairs=pairs,
        composition=composition_table(pairs, cases, measured),
        errors=errors,
        tail=shown[shown["latency_s"].notna()],
        saturation=saturation,
        saturation_table=saturation_table(saturation),
        say=SimpleNamespace(
            **_introduction(measured, cases, batches),
            **_scatter_sentences(shown, measured, batches),
            **_correlation_sentences(correlations, measured.series, batches),
            **_pair_sentences(pairs, cases, measured),
            **_prediction_sentences(errors, cases, measured.series),
            **_throughput_sentences(cases, saturation, measured.series),
            **_tail_sentences(shown, measured.series, batches),
            **_alternative_texts(shown, correlations, measured.series, batches, saturation, errors),
        ),
    )


# Tables


def with_predictions(measured: Measured) -> pd.DataFrame:
    """The cases with the roofline's own estimate and the held-out predictions of `METHODS`, all in s.

    The estimate is also given for cases that have no latency; the others are fitted per series, to latencies.
    """
    cases = measured.cases.reset_index(drop=True)
    parts = []
    for row in cases.itertuples():
        hardware = measured.hardware.get((row.machine, row.device, row.precision))
        if hardware is None:
            parts.append({})
            continue
        times = predict.operation_times(shared.operations(row.model, row.batch_size, row.precision), hardware)
        components = predict.components(times)
        parts.append(components | {"estimate_s": predict.latency_s(components, hardware)})
    names = [*predict.FITTED, "estimate_s"]
    cases = cases.drop(columns="operation_count").join(pd.DataFrame(parts, columns=names, index=cases.index))
    usable = cases[cases["latency_s"].notna() & cases["estimate_s"].notna()]
    for column, inputs, apart in (
        ("fitted_s", predict.FITTED, ["series"]),
        ("flop_s", ["flop"], ["series", "batch_size"]),
        ("bytes_s", ["bytes_eager"], ["series", "batch_size"]),
        ("param_s", ["param_count"], ["series", "batch_size"]),
    ):
        cases[column] = np.nan
        for _, group in usable.groupby(apart):
            cases.loc[group.index, column] = predict.leave_one_out(group, list(inputs))
    return cases


def roof_lines(measured: Measured) -> pd.DataFrame:
    """Per series and count, the seconds that one unit of it costs at the least: the slope of each chart's ceiling.

    FLOPs at the achievable FLOP/s; parameters, activations and bytes at the achievable bandwidth of memory.
    """
    rows = []
    for row in measured.ceilings.itertuples():
        element = shared.PRECISION_BYTES[row.precision]
        slopes = {"flop": 1 / row.achievable_flop_per_s, "bytes_eager": 1 / row.achievable_byte_per_s}
        slopes |= dict.fromkeys(("param_count", "activation_count"), element / row.achievable_byte_per_s)
        rows += [{"series": row.series, "quantity": name, "second_per_unit": slopes[name]} for name in COUNTS]
    return pd.DataFrame(rows, columns=["series", "quantity", "second_per_unit"])


def images(cases: pd.DataFrame) -> pd.DataFrame:
    """Cases whose input is one image: the networks that a designer would choose among, and that rank against others."""
    return cases[cases["unit"] == "image"]


def correlate(shown: pd.DataFrame, series: Sequence[Series]) -> tuple[pd.DataFrame, list[str]]:
    """`metrics.rank_correlations` of every latency, the counts and every roofline estimate, and the variables."""
    wide = images(shown).drop_duplicates(["model", "batch_size"]).set_index(["model", "batch_size"])[list(COUNTS)]
    wide = wide.rename(columns=COUNTS)
    latencies, estimates = [], []
    for one in series:
        own = shown[shown["series"] == one.label].set_index(["model", "batch_size"])
        name, estimate = _variable("latency", one, series), _variable(ESTIMATE, one, series)
        wide[name], wide[estimate] = own["latency_s"], own["estimate_s"]
        latencies.append(name)
        estimates.append(estimate)
    variables = [*latencies, *COUNTS.values(), *estimates]
    return metrics.rank_correlations(wide.reset_index(), variables), variables


def out_of_order(shown: pd.DataFrame, series: Sequence[Series]) -> pd.DataFrame:
    """Per series and batch size, the pair of image networks most out of order by FLOPs, and by parameters.

    Of all pairs in which ``less`` has fewer of the quantity than ``more`` and yet takes longer, with intervals that
    don't overlap, the one with the largest ratio of latencies. Columns: series, batch_size, quantity, less, more,
    quantity_ratio (more / less), latency_ratio (less / more), pairs (how many are out of order), of (how many there
    are). No row where every pair is in order.
    """
    rows = []
    for one in series:
        own = images(shown[(shown["series"] == one.label) & shown["latency_s"].notna()])
        for batch_size, group in own.groupby("batch_size"):
            for quantity in ("flop", "param_count"):
                row = _worst_pair(group, quantity)
                if row:
                    rows.append({"series": one.label, "batch_size": int(batch_size), "quantity": quantity} | row)
    columns = ["series", "batch_size", "quantity", "less", "more", "quantity_ratio", "latency_ratio", "pairs", "of"]
    return pd.DataFrame(rows, columns=columns)


def _worst_pair(group: pd.DataFrame, quantity: str) -> dict | None:
    found = [
        {
            "less": a["model"], "more": b["model"], "quantity_ratio": b[quantity] / a[quantity],
            "latency_ratio": a["latency_s"] / b["latency_s"],
        }
        for a, b in permutations(group.to_dict("records"), 2)
        if a[quantity] < b[quantity] and a["latency_low_s"] > b["latency_high_s"]
    ]  # fmt: skip
    if not found:
        return None
    return max(found, key=lambda row: row["latency_ratio"]) | {
        "pairs": len(found), "of": len(group) * (len(group) - 1) // 2
    }  # fmt: skip


def headline_pairs(pairs: pd.DataFrame, series: Sequence[Series]) -> list[dict]:
    """Per series, the pair most out of order by FLOPs and the one by parameters, over all batch sizes."""
    found = []
    for one in series:
        for quantity in ("flop", "param_count"):
            own = pairs[(pairs["series"] == one.label) & (pairs["quantity"] == quantity)]
            if len(own):
                found.append(own.loc[own["latency_ratio"].idxmax()].to_dict())
    return found


GROUPS = {
    "convolution": ("convolution", "pointwise convolution"), "depthwise": ("depthwise convolution",),
    "linear": ("linear",), "attention": ("attention",), "normalisation": ("normalisation",),
    "element-wise": ("activation", "element-wise", "pooling", "data movement", "other"),
}  # fmt: skip
"""Layer types gathered for the composition of a network; "convolution" holds the pointwise ones."""


def composition(case: pd.Series, measured: Measured) -> dict:
    """What a network's time at the roof consists of: shares by `GROUPS`, memory-bound share, operations, dispatch."""
    hardware = measured.hardware[case["machine"], case["device"], case["precision"]]
    operations = shared.operations(case["model"], int(case["batch_size"]), case["precision"])
    times = predict.operation_times(operations, hardware)
    total = times["roof_s"].sum()
    by_type = times.groupby("layer_type")["roof_s"].sum()
    shares = {name: sum(by_type.get(kind, 0.0) for kind in kinds) / total for name, kinds in GROUPS.items()}
    return shares | {
        "operation_count": len(times),
        "memory_share": times.loc[~times["is_compute_bound"], "roof_s"].sum() / total,
        "dispatch_share": len(times) * hardware.overhead_s / case["latency_s"],
    }


def _case(cases: pd.DataFrame, series: str, model: str, batch_size: int) -> pd.Series:
    return cases[(cases["series"] == series) & (cases["model"] == model) & (cases["batch_size"] == batch_size)].iloc[0]


def composition_table(pairs: pd.DataFrame, cases: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """The networks of the headline pairs side by side, as finished strings."""
    rows = {}
    for pair in headline_pairs(pairs, measured.series):
        for model in (pair["less"], pair["more"]):
            key = (pair["series"], pair["batch_size"], model)
            if key in rows:
                continue
            case = _case(cases, *(key[0], model, key[1]))
            made_of = composition(case, measured)
            row = {"network": model, "batch": pair["batch_size"]}
            if len(measured.series) > 1:
                row = {"hardware": pair["series"]} | row
            rows[key] = row | {
                "latency": report.duration(case["latency_s"]),
                "FLOPs": report.quantity(case["flop"], "FLOP"),
                "operations": report.number(made_of["operation_count"]),
                "eager FLOP/B": report.significant(case["intensity_eager"]),
                "memory-bound": report.percent(made_of["memory_share"]),
                "time at the roof": _composed(made_of),
            }
    return pd.DataFrame(list(rows.values()) or [{"network": "none: no pair is out of order"}])


def _composed(made_of: Mapping[str, float]) -> str:
    """The shares of `GROUPS` that make up at least one in a hundred, the largest first."""
    shares = sorted(((made_of[name], name) for name in GROUPS if made_of[name] >= 0.01), reverse=True)
    return ", ".join(f"{name} {report.percent(share)}" for share, name in shares)


def prediction_errors(cases: pd.DataFrame, series: Sequence[Series]) -> pd.DataFrame:
    """Per series and method of `METHODS`: the median and the largest error factor, with the case of the latter."""
    rows = []
    for one in series:
        own = cases[(cases["series"] == one.label) & cases["latency_s"].notna()]
        for column, method in METHODS.items():
            factors = predict.error_factor(own[column], own["latency_s"]).dropna()
            if factors.empty:
                continue
            worst = own.loc[factors.idxmax()]
            rows.append({"series": one.label, "method": method, "column": column, "n": len(factors),
                         "typical": float(factors.median()), "worst": float(factors.max()),
                         "worst_case": f"{worst['model']}, batch {worst['batch_size']}"})  # fmt: skip
    return pd.DataFrame(rows, columns=["series", "method", "column", "n", "typical", "worst", "worst_case"])


def error_table(errors: pd.DataFrame) -> pd.DataFrame:
    """`prediction_errors` as finished strings."""
    table = pd.DataFrame({
        "hardware": errors["series"],
        "prediction": errors["method"],
        "typically off by": [f"{report.significant(value, 3)} times" for value in errors["typical"]],
        "at worst by": [f"{report.significant(value, 3)} times" for value in errors["worst"]],
        "at worst for": errors["worst_case"],
    })  # fmt: skip
    return table if errors["series"].nunique() > 1 else table.drop(columns="hardware")


def pair_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """`out_of_order` as finished strings."""
    if pairs.empty:
        return pd.DataFrame({"pairs out of order": ["none, by FLOPs or by parameters"]})
    table = pd.DataFrame({
        "hardware": pairs["series"],
        "batch": pairs["batch_size"],
        "ranked by": pairs["quantity"].map(COUNTS),
        "slower, though less": pairs["less"],
        "than": pairs["more"],
        "has": [f"{report.significant(1 / value, 2)} x" for value in pairs["quantity_ratio"]],
        "takes": [f"{report.significant(value, 2)} x" for value in pairs["latency_ratio"]],
        "pairs out of order": [f"{pairs} of {of}" for pairs, of in zip(pairs["pairs"], pairs["of"], strict=True)],
    })  # fmt: skip
    return table if pairs["series"].nunique() > 1 else table.drop(columns="hardware")


def saturation_table(saturation: pd.DataFrame) -> pd.DataFrame:
    """`metrics.saturation` as finished strings, one row a network and a pair of columns a series."""
    columns: dict[str, dict[str, str]] = {}
    several = saturation["series"].nunique() > 1
    for row in saturation.itertuples():
        end = f", {row.series}" if several else ""
        batch = f"{row.saturation_batch_size}{' (largest)' if row.is_rising else ''}"
        columns.setdefault(f"saturates at batch{end}", {})[row.model] = batch
        columns.setdefault(f"inputs/s{end}", {})[row.model] = report.significant(row.best_throughput_per_s)
    return pd.DataFrame(columns).rename_axis("network").reset_index()


# Sentences


def _per_series(series: Sequence[Series], sentence) -> Text:
    """One sentence after another, for each series that has one."""
    return Text(" ".join(filter(None, (sentence(one) for one in series))) or "Nothing was measured that tells.")


def _on(one: Series) -> str:
    return f"on the {one.label}"


def _at(one: Series) -> str:
    """The same at a sentence's start."""
    return f"On the {one.label}"


def _introduction(measured: Measured, cases: pd.DataFrame, batches: Sequence[int]) -> dict[str, Text]:
    machines = len({one.machine for one in measured.series})
    language = sorted(set(cases.loc[cases["family"] == shared.LANGUAGE, "model"]))
    formats = cases.groupby("series", sort=False)["memory_format"].first()
    names = {"contiguous": "contiguous", "channels_last": "channels-last"}
    return {
        "devices": shared.accelerator_sentence(measured),
        "outcomes": shared.outcome_sentence(cases),
        "precision": Text(measured.series[0].precision),
        "n_networks": report.number(cases["model"].nunique()),
        "n_images": report.number(images(cases)["model"].nunique()),
        "n_machines": report.plural(machines, "machine"),
        "batches": report.listing(map(str, batches)),
        "all_batches": report.listing(map(str, sorted(set(cases["batch_size"])))),
        "format": report.listing(
            f"{names[name]} tensors on the {series}" if len(set(formats)) > 1 else f"{names[name]} tensors"
            for series, name in (formats.items() if len(set(formats)) > 1 else [("", formats.iloc[0])])
        ),
        "language": Text(
            f"For {report.listing(language)} an input is a sequence rather than an image; they appear in the scatter "
            "plots and the throughput chart, but not among the networks that are ranked against each other."
            if language
            else "Every input is an image."
        ),
        "uncounted": Text(
            f"Left out, because they could not be counted here: {report.listing(measured.uncounted)}."
            if measured.uncounted
            else "Every network that was measured could be counted."
        ),
    }


def _distance(cases: pd.DataFrame) -> pd.Series:
    """How many times longer than its FLOPs at the achievable FLOP/s a case takes."""
    return cases["latency_s"] * cases["achievable_flop_per_s"] / cases["flop"]


def _scatter_sentences(shown: pd.DataFrame, measured: Measured, batches: Sequence[int]) -> dict[str, Text]:
    def spread(one: Series) -> str:
        own = shown[(shown["series"] == one.label) & shown["latency_s"].notna()]
        parts = []
        for batch_size in batches:
            group = own[own["batch_size"] == batch_size]
            if len(group) < 2 or _distance(group).isna().all():
                continue
            distance = _distance(group)
            near, far = group.loc[distance.idxmin(), "model"], group.loc[distance.idxmax(), "model"]
            parts.append(
                f"at batch {batch_size} from {report.times(distance.min())} ({near}) to "
                f"{report.times(distance.max())} ({far})"
            )
        return f"On the {one.label}, networks take longer than that line allows by these factors: {'; '.join(parts)}."

    def same_flop(one: Series) -> str:
        own = images(shown[(shown["series"] == one.label) & shown["latency_s"].notna()])
        found = _widest_at_equal_flop(own)
        if found is None:
            return ""
        fast, slow = found
        return (
            f"{_at(one)} at batch {slow['batch_size']}, {slow['model']} and {fast['model']} differ in FLOPs by only "
            f"{report.percent(abs(slow['flop'] / fast['flop'] - 1))}, yet the first takes "
            f"{report.times(slow['latency_s'] / fast['latency_s'])} as long ({report.estimate(metrics.estimate(slow))} "
            f"against {report.estimate(metrics.estimate(fast))})."
        )

    def at_equal_flop(one: Series) -> str:
        parts = [f"{report.significant(ratio, 2)} at batch {batch}" for batch, ratio in _spreads(shown, one, "flop")]
        return (
            f"{_at(one)} in {one.precision}, latency per FLOP differs between image networks by factors of up to "
            f"{report.listing(parts)}: so far can two networks with equal FLOPs be apart."
            if parts
            else ""
        )

    def sizes(one: Series) -> str:
        found: dict[int, dict[str, float]] = {}
        for name, said in COUNTS.items():
            for batch, ratio in _spreads(shown, one, name):
                found.setdefault(batch, {})[said] = ratio
        parts = []
        for batch, spreads in found.items():
            listed = report.listing(f"{report.significant(ratio, 2)} for {said}" for said, ratio in spreads.items())
            parts.append(f"at batch {batch} {listed}, so least for {min(spreads, key=spreads.get)}")
        return (
            f"{_at(one)}, the image networks with the most and the least latency per unit of each count lie apart by "
            f"these factors: {'; '.join(parts)}."
            if parts
            else ""
        )

    beyond = metrics.above_roof(measured.cases)
    return {
        "flop_takeaway": _per_series(measured.series, at_equal_flop),
        "size_reading": _per_series(measured.series, sizes),
        "spread": _per_series(measured.series, spread),
        "same_flop": _per_series(measured.series, same_flop),
        "roofs": _per_series(measured.series, lambda one: _roof_sentence(measured, one)),
        "above_roof": Text(
            "No point lies below the line, as it should be; a test fails if one ever does."
            if not beyond
            else f"These points are faster than the achievable roof allows, a defect to explain: {'; '.join(beyond)}."
        ),
    }


def _spreads(shown: pd.DataFrame, one: Series, quantity: str) -> list[tuple[int, float]]:
    """Per batch size, the largest over the smallest latency per unit of a quantity among image networks."""
    own = images(shown[(shown["series"] == one.label) & shown["latency_s"].notna()])
    per_unit = (own["latency_s"] / own[quantity]).groupby(own["batch_size"])
    return [(int(batch), float(group.max() / group.min())) for batch, group in per_unit if len(group) > 1]


def _roof_sentence(measured: Measured, one: Series) -> str:
    own = measured.ceilings[measured.ceilings["series"] == one.label]
    if own.empty:
        return f"No ceiling was measured on the {one.label}."
    row = own.iloc[0]
    return (
        f"The {one.label} achieves at most {report.flop_rate(row['achievable_flop_per_s'])} in {one.precision} and "
        f"{report.bandwidth(row['achievable_byte_per_s'])} from memory, and handing over one operation costs "
        f"{report.duration(row['overhead_s'])}."
    )


def _widest_at_equal_flop(cases: pd.DataFrame, tolerance: float = 0.25) -> tuple[pd.Series, pd.Series] | None:
    """The pair (fast, slow) with FLOPs within ``tolerance`` of each other whose latencies differ most."""
    best, ratio = None, 1.0
    for _, group in cases.groupby("batch_size"):
        for a, b in permutations(group.to_dict("records"), 2):
            is_alike = abs(b["flop"] / a["flop"] - 1) <= tolerance
            if is_alike and b["latency_low_s"] > a["latency_high_s"] and b["latency_s"] / a["latency_s"] > ratio:
                best, ratio = (pd.Series(a), pd.Series(b)), b["latency_s"] / a["latency_s"]
    return best


def _sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def _closeness(value: float) -> str:
    # Rounded as it is shown, so that word and number agree.
    shown = round(value, 2)
    return "closely" if shown >= CLOSE else "roughly" if shown >= ROUGH else "poorly"


def _variable(kind: str, one: Series, series: Sequence[Series]) -> str:
    """What a latency or an estimate is called among the variables: with its hardware if there are several."""
    return kind if len(series) == 1 else f"{kind}, {one.label}"


def _correlation(correlations: pd.DataFrame, batch_size: int, left: str, right: str) -> pd.Series | None:
    rows = correlations[
        (correlations["batch_size"] == batch_size)
        & (((correlations["left"] == left) & (correlations["right"] == right))
           | ((correlations["left"] == right) & (correlations["right"] == left)))
    ]  # fmt: skip
    return None if rows.empty or np.isnan(rows.iloc[0]["spearman"]) else rows.iloc[0]


def _spearman(row: pd.Series) -> Estimate:
    return Estimate(row["spearman"], row["spearman_low"], row["spearman_high"])


def _quoted(value: Estimate) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]".replace("-", "−")


def _correlation_sentences(
    correlations: pd.DataFrame, series: Sequence[Series], batches: Sequence[int]
) -> dict[str, Text]:
    def found(one: Series, batch_size: int) -> dict[str, Estimate]:
        names = {name: name for name in COUNTS.values()} | {_variable(ESTIMATE, one, series): f"the {ESTIMATE}"}
        rows = {
            said: _correlation(correlations, batch_size, _variable("latency", one, series), name)
            for name, said in names.items()
        }
        return {said: _spearman(row) for said, row in rows.items() if row is not None}

    def reading(one: Series) -> str:
        parts = []
        for batch_size in batches:
            values = found(one, batch_size)
            if values:
                best = max(values, key=lambda name: values[name].value)
                others = [name for name in values if name != best and values[name].overlaps(values[best])]
                alike = "all others" if len(others) == len(values) - 1 else report.listing(others)
                tie = f", indistinguishable from {alike}" if others else ", above all others"
                listed = report.listing(f"{name} {_quoted(values[name])}" for name in ("FLOPs", "parameters"))
                parts.append(f"at batch {batch_size}, {listed}; highest for {best}, {_quoted(values[best])}{tie}")
        if not parts:
            return f"On the {one.label} too few networks have a latency for a correlation."
        return f"Spearman's correlation with latency {_on(one)}: {'. '.join(map(_sentence_case, parts))}."

    def verdict(one: Series) -> str:
        words = {}
        for name in ("FLOPs", "parameters"):
            values = {batch: found(one, batch).get(name) for batch in batches}
            words[name] = report.listing(
                f"{_closeness(value.value)} at batch {batch}" for batch, value in values.items() if value is not None
            )
        if words["FLOPs"] == "none":
            return ""
        return f"{_at(one)}, FLOPs rank networks by latency {words['FLOPs']}; parameters do so {words['parameters']}."

    counts = {batch: correlations.loc[correlations["batch_size"] == batch, "n"] for batch in batches}
    sizes = report.listing(
        f"{int(n.min())} to {int(n.max())} at batch {batch}"
        if n.min() != n.max()
        else f"{int(n.max())} at batch {batch}"
        for batch, n in counts.items()
        if len(n)
    )
    return {
        "correlation_reading": _per_series(series, reading),
        "correlation_verdict": _per_series(series, verdict),
        "correlation_n": sizes,
        "correlation_across": _across(correlations, series, batches),
        "close": Text(f"{CLOSE:g}"),
        "rough": Text(f"{ROUGH:g}"),
    }


def _across(correlations: pd.DataFrame, series: Sequence[Series], batches: Sequence[int]) -> Text:
    """How alike two devices rank the networks."""
    parts = []
    for index, one in enumerate(series):
        for other in series[index + 1 :]:
            values = [
                (batch, _correlation(correlations, batch, f"latency, {one.label}", f"latency, {other.label}"))
                for batch in batches
            ]
            quoted = [f"{_quoted(_spearman(row))} at batch {batch}" for batch, row in values if row is not None]
            if quoted:
                both = f"the {one.label} and the {other.label}"
                parts.append(f"Between the latencies on {both}, Spearman's correlation is {report.listing(quoted)}.")
    return Text(" ".join(parts) or "With one device there is no second ranking to compare with.")


def _pair_sentences(pairs: pd.DataFrame, cases: pd.DataFrame, measured: Measured) -> dict[str, Text]:
    said = {}
    for quantity in ("flop", "param_count"):
        sentences = []
        for one in measured.series:
            own = pairs[(pairs["series"] == one.label) & (pairs["quantity"] == quantity)]
            if own.empty:
                sentences.append(
                    f"{_at(one)}, no pair of networks is out of order by {COUNTS[quantity]}: wherever "
                    "latencies can be told apart, the network with more takes longer."
                )
                continue
            pair = own.loc[own["latency_ratio"].idxmax()]
            sentences.append(_pair_sentence(pair, one, cases, measured))
        said[f"pair_{quantity}"] = Text("\n\n".join(sentences))
    said["pair_in_order"] = _in_order_sentence(pairs, cases, measured)
    said["largest_model"] = _per_series(measured.series, lambda one: _largest_model_sentence(cases, one))
    return said


def _pair_sentence(pair: pd.Series, one: Series, cases: pd.DataFrame, measured: Measured) -> str:
    batch_size = int(pair["batch_size"])
    slow, fast = (_case(cases, one.label, pair[name], batch_size) for name in ("less", "more"))
    asks = {
        "flop": f"asks for {report.significant(pair['quantity_ratio'], 2)} times fewer FLOPs than",
        "param_count": f"has {report.significant(pair['quantity_ratio'], 2)} times fewer parameters than",
    }[pair["quantity"]]
    text = (
        f"{_at(one)} at batch {batch_size}, **{slow['model']}** {asks} **{fast['model']}**, yet it takes "
        f"{report.significant(pair['latency_ratio'], 2)} times as long: {report.estimate(metrics.estimate(slow))} "
        f"against {report.estimate(metrics.estimate(fast))}."
    )
    if one.key not in measured.hardware:
        return text
    return f"{text} {_composition_sentence(slow, fast, measured)}"


def _composition_sentence(slow: pd.Series, fast: pd.Series, measured: Measured) -> str:
    """How two networks differ in what they are made of, and whether the roofline of the operations expects the order.

    Each quantity is given for both, so that the sentence stays true whichever way it points.
    """
    ours, theirs = composition(slow, measured), composition(fast, measured)
    gap = max(GROUPS, key=lambda name: ours[name] - theirs[name])
    reuse = [case["flop"] / case["batch_size"] / case["param_count"] for case in (slow, fast)]
    expected = slow["estimate_s"] > fast["estimate_s"]
    reached = [case["estimate_s"] / case["latency_s"] for case in (slow, fast)]
    missed = report.choose(
        expected,
        "So what the count leaves out here, the roofline of the operations sees.",
        "So what sets them apart here is not the work that it counts but how far their kernels stay below the roof.",
    )
    return (
        f"It spends {report.significant(reuse[0], 2)} FLOPs per parameter and input, the other "
        f"{report.significant(reuse[1], 2)}; its eager intensity is {report.intensity(slow['intensity_eager'])}, the "
        f"other's {report.intensity(fast['intensity_eager'])}; it runs {ours['operation_count']} operations, the other "
        f"{theirs['operation_count']}. At the roof, memory-bound operations would make up "
        f"{report.percent(ours['memory_share'])} of its time against {report.percent(theirs['memory_share'])}, and the "
        f"kind of work that sets it apart most is {gap}: {report.percent(ours[gap])} against "
        f"{report.percent(theirs[gap])}. Dispatch alone costs {report.percent(ours['dispatch_share'])} of its latency, "
        f"against {report.percent(theirs['dispatch_share'])}. The roofline of the operations "
        f"{report.choose(expected, 'expects', 'does not expect')} this order: {report.duration(slow['estimate_s'])} "
        f"against {report.duration(fast['estimate_s'])}. Measured, the "
        f"one runs at {report.percent(reached[0])} of the estimate's speed, the other at {report.percent(reached[1])}. "
        f"{missed}"
    )


def _in_order_sentence(pairs: pd.DataFrame, cases: pd.DataFrame, measured: Measured) -> Text:
    """The other side: how many pairs FLOPs put in the right order."""
    parts = []
    for one in measured.series:
        own = pairs[(pairs["series"] == one.label) & (pairs["quantity"] == "flop")]
        by_batch = [f"{row.of - row.pairs} of {row.of} (batch {row.batch_size})" for row in own.itertuples()]
        if by_batch:
            parts.append(
                f"{_at(one)}, FLOPs put {report.listing(by_batch)} pairs in order, or they are too close to tell."
            )
    return Text(" ".join(parts) or "FLOPs put every pair in order or too close to tell.")


def _largest_model_sentence(cases: pd.DataFrame, one: Series) -> str:
    """Where the image network with the most parameters stands by latency at the smallest batch."""
    own = images(cases[(cases["series"] == one.label) & cases["latency_s"].notna()])
    if own.empty:
        return ""
    own = own[own["batch_size"] == own["batch_size"].min()]
    largest = own.loc[own["param_count"].idxmax()]
    slower = own[own["latency_low_s"] > largest["latency_high_s"]]
    return (
        f"{_at(one)}, {largest['model']} has the most parameters, {report.number(largest['param_count'])}, and at "
        f"batch {largest['batch_size']} {report.number(len(slower))} of the other "
        f"{report.plural(len(own) - 1, 'network')} {'is' if len(slower) == 1 else 'are'} slower."
    )


def _prediction_sentences(errors: pd.DataFrame, cases: pd.DataFrame, series: Sequence[Series]) -> dict[str, Text]:
    def sentence(one: Series) -> str:
        own = errors[errors["series"] == one.label].set_index("column")
        if own.empty:
            return f"On the {one.label} nothing can be predicted, for want of ceilings."
        free = own.loc["estimate_s"]
        text = (
            f"{_at(one)}, the roofline of the operations, with nothing fitted, is typically off by a factor of "
            f"{report.significant(free['typical'])} and at worst by one of {report.significant(free['worst'])} "
            f"({free['worst_case']})."
        )
        held = own.drop(index="estimate_s")
        if held.empty:
            return text
        best = held["typical"].idxmin()
        return (
            f"{text} Of the fitted predictions the best for a network that it has not seen is “{METHODS[best]}”: "
            f"typically off by a factor of {report.significant(held.loc[best, 'typical'])} and at worst by one of "
            f"{report.significant(held.loc[best, 'worst'])} ({held.loc[best, 'worst_case']})."
        )

    def takeaway(one: Series) -> str:
        own = errors[errors["series"] == one.label].set_index("column")["typical"]
        timed = cases[(cases["series"] == one.label) & cases["latency_s"].notna() & cases["estimate_s"].notna()]
        if own.empty or timed.empty:
            return ""
        short = int((timed["estimate_s"] < timed["latency_low_s"]).sum())
        text = (
            f"{_at(one)}, the estimate is too short in {report.number(short)} of {report.number(len(timed))} cases, as "
            "an estimate at the roof should be"
        )
        if "flop_s" not in own or "fitted_s" not in own:
            return f"{text}."
        words = ("closer than", "farther off than")
        order = [report.choose(own[name] < own["flop_s"], *words) for name in ("estimate_s", "fitted_s")]
        return (
            f"{text}. By the typical error it is, with nothing fitted, {order[0]} FLOPs times a fitted constant, and "
            f"with its three factors fitted to other networks {order[1]} it."
        )

    return {"prediction": _per_series(series, sentence), "prediction_takeaway": _per_series(series, takeaway)}


def _throughput_sentences(cases: pd.DataFrame, saturation: pd.DataFrame, series: Sequence[Series]) -> dict[str, Text]:
    def sentence(one: Series) -> str:
        own = saturation[saturation["series"] == one.label]
        if own.empty:
            return ""
        rising = own[own["is_rising"] & (own["largest_batch_size"] > 1)]
        middle = own["saturation_batch_size"].median()
        return (
            f"{_at(one)}, the median network reaches {report.percent(metrics.SATURATION_SHARE)} of its best "
            f"throughput at batch {report.number(middle)}; {report.number(len(rising))} of {report.number(len(own))} "
            "do so only at the largest batch that gave a latency, so that theirs may still be rising."
        )

    def gain(one: Series) -> str:
        own = cases[(cases["series"] == one.label) & cases["latency_s"].notna()]
        singles = own[own["batch_size"] == 1].set_index("model")["throughput_per_s"]
        best = own.groupby("model")["throughput_per_s"].max()
        ratio = (best / singles).dropna()
        if ratio.empty:
            return ""
        return (
            f"Against batch 1, batching gains {_on(one)} from {report.times(ratio.min())} ({ratio.idxmin()}) to "
            f"{report.times(ratio.max())} ({ratio.idxmax()}), {report.times(ratio.median())} in the median."
        )

    def drop(one: Series) -> str:
        own = cases[(cases["series"] == one.label) & cases["latency_s"].notna()]
        slower: dict[str, float] = {}
        for model, group in own.groupby("model", sort=False):
            best, last = (group.loc[group[column].idxmax()] for column in ("throughput_per_s", "batch_size"))
            ours, theirs = (metrics.estimate(case, "throughput_per_s") for case in (last, best))
            if not ours.overlaps(theirs):
                slower[model] = theirs.value / ours.value
        if not slower:
            return f"{_at(one)}, no network is slower per input at its largest batch than at its best one."
        worst = max(slower, key=slower.get)
        return (
            f"{_at(one)}, {report.number(len(slower))} of {report.plural(own['model'].nunique(), 'network')} "
            f"{'is' if len(slower) == 1 else 'are'} slower per input at the largest batch than at the best one, by up "
            f"to a factor of {report.significant(slower[worst], 2)} ({worst}). The roofline does not see that: a "
            "network's eager intensity never falls with the batch."
        )

    def enough(one: Series) -> str:
        own = saturation[saturation["series"] == one.label]
        if own.empty:
            return ""
        half = np.sort(own["saturation_batch_size"].to_numpy())[(len(own) - 1) // 2]
        last = own.loc[own["saturation_batch_size"] == own["saturation_batch_size"].max(), "model"]
        return (
            f"{_at(one)} in {one.precision}, batch {half} is enough for at least half of the networks; the last to "
            f"saturate, at batch {own['saturation_batch_size'].max()}, {'is' if len(last) == 1 else 'are'} "
            f"{report.listing(last)}."
        )

    return {
        "saturation": _per_series(series, sentence),
        "batching_gain": _per_series(series, gain),
        "saturation_share": report.percent(metrics.SATURATION_SHARE),
        "missing": Text(
            "Every batch size gave a throughput."
            if cases["latency_s"].notna().all()
            else f"Marked with a cross, for want of a throughput: {shared.missing_cases(cases)}."
        ),
        "devices_compared": _devices_compared(cases, series),
        "throughput_takeaway": _per_series(series, enough),
        "drop": _per_series(series, drop),
    }


def _devices_compared(cases: pd.DataFrame, series: Sequence[Series]) -> Text:
    """How many times faster each further device runs the same case than the first."""
    if len(series) < 2:
        return Text("There is one device, so there is nothing to compare it with.")
    first = cases[cases["series"] == series[0].label].set_index(["model", "batch_size"])["latency_s"]
    parts = []
    for one in series[1:]:
        own = cases[cases["series"] == one.label].set_index(["model", "batch_size"])["latency_s"]
        ratio = (first / own).dropna()
        if ratio.empty:
            continue
        low, high = ratio.idxmin(), ratio.idxmax()
        parts.append(
            f"Latency on the {series[0].label} is between {report.times(ratio.min())} ({low[0]}, batch {low[1]}) and "
            f"{report.times(ratio.max())} ({high[0]}, batch {high[1]}) that on the {one.label}, "
            f"{report.times(ratio.median())} in the median."
        )
    return Text(" ".join(parts) or "The devices have no case in common.")


def _tail_sentences(shown: pd.DataFrame, series: Sequence[Series], batches: Sequence[int]) -> dict[str, Text]:
    first = batches[0]

    def sentence(one: Series) -> str:
        own = shown[(shown["series"] == one.label) & (shown["batch_size"] == first) & shown["latency_s"].notna()]
        if own.empty:
            return ""
        ratio = (own["latency_p95_s"] / own["latency_s"]).set_axis(own["model"])
        fast, slow = (own.loc[own["latency_s"].map(float).agg(name)] for name in ("idxmin", "idxmax"))
        word = report.compare(metrics.estimate(fast), metrics.estimate(slow), ("the fastest", "the slowest"))
        extremes = (
            "all networks are indistinguishable"
            if word.startswith("indistinguishable")
            else f"{fast['model']} is the fastest with {report.estimate(metrics.estimate(fast))} and {slow['model']} "
            f"the slowest with {report.estimate(metrics.estimate(slow))}"
        )
        return (
            f"{_at(one)} at batch {first}, {extremes}. The 95th percentile lies "
            f"{report.percent(ratio.median() - 1)} above the median in the median network and at most "
            f"{report.percent(ratio.max() - 1)} ({ratio.idxmax()})."
        )

    def resolution(one: Series) -> str:
        own = shown[(shown["series"] == one.label) & shown["latency_s"].notna()]
        if own.empty:
            return ""
        width = (own["latency_high_s"] - own["latency_low_s"]) / own["latency_s"]
        return (
            f"{_at(one)}, the whole interval of a median is {report.percent(width.median())} wide in the median case "
            f"and {report.percent(width.max())} in the widest: networks that lie closer together than that are "
            "indistinguishable here."
        )

    few = shown[shown["latency_s"].notna() & (shown["n"] < 20)]
    return {
        "tail": _per_series(series, sentence),
        "tail_takeaway": _per_series(series, resolution),
        "tail_few": Text(
            f"In {report.number(len(few))} of {report.number(int(shown['latency_s'].notna().sum()))} cases there are "
            "fewer than 20 samples; their 95th percentile is the slowest sample."
            if len(few)
            else "Every case has at least 20 samples, enough for a 95th percentile."
        ),
    }


def _alternative_texts(
    shown: pd.DataFrame,
    correlations: pd.DataFrame,
    series: Sequence[Series],
    batches: Sequence[int],
    saturation: pd.DataFrame,
    errors: pd.DataFrame,
) -> dict[str, Text]:
    usable = shown[shown["latency_s"].notna()]
    fast, slow = usable.loc[usable["latency_s"].idxmin()], usable.loc[usable["latency_s"].idxmax()]
    extent = (
        f"from {report.duration(fast['latency_s'])} ({fast['model']}, batch {fast['batch_size']}) to "
        f"{report.duration(slow['latency_s'])} ({slow['model']}, batch {slow['batch_size']})"
    )
    texts = {
        f"alt_{name}": Text(
            f"Scatter plots with logarithmic axes, one panel per batch size and device: latency of "
            f"{usable['model'].nunique()} networks against {said}, {extent}."
        )
        for name, said in COUNTS.items()
    }
    rows = [
        (one.label, batch, _correlation(correlations, batch, _variable("latency", one, series), "FLOPs"))
        for one in series
        for batch in batches
    ]
    quoted = [f"{row['spearman']:.2f} at batch {batch} on the {label}" for label, batch, row in rows if row is not None]
    texts["alt_correlation"] = Text(
        "Heat maps of rank correlations, one per batch size, Spearman below the diagonal and Kendall above. Latency "
        f"with FLOPs: {report.listing(quoted)}."
    )
    texts["alt_throughput"] = Text(
        f"Throughput against batch size, one panel for each of {saturation['model'].nunique()} networks, with the "
        "batch at which each saturates ringed and cases without a result crossed."
    )
    texts["alt_tail"] = Text(
        f"Latency per input of each network with its interval and 95th percentile; cases run {extent}."
    )
    free = errors[errors["column"] == "estimate_s"]
    texts["alt_prediction"] = Text(
        "Measured latency over the roofline's estimate for each network and batch size; the typical factor is "
        + report.listing(f"{row.typical:.2f} on the {row.series}" for row in free.itertuples())
        + "."
    )
    return texts
