"""Chapter 4's tables and sentences: how much of the hardware networks use, and where the rest of the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from src import metrics, predict, report, store
from src.findings import measured as shared
from src.findings.measured import Measured, Series
from src.predict import COMPUTE, DISPATCH, LOST, MEMORY, REST
from src.report import Text

CAUSE_WORDS = {
    COMPUTE: "compute-bound operations at the roof", MEMORY: "memory-bound operations at the roof",
    DISPATCH: "dispatch and launch", LOST: "kernels below their roof", REST: "the rest",
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What the chapter shows (tidy tables, one a figure) and says (named sentences)."""

    batches: list[int]
    all_batches: list[int]
    cases: pd.DataFrame
    ceilings: pd.DataFrame
    shown: pd.DataFrame
    causes: pd.DataFrame
    utilisation_table: pd.DataFrame
    cause_table: pd.DataFrame
    roof_table: pd.DataFrame
    gains: pd.DataFrame
    say: SimpleNamespace


def find(root: Path | None = None) -> Found:
    """Everything that chapter 4 shows and says, from the machines in ``root`` (default: ``data/machines/``)."""
    whole = shared.load(root)
    measured = whole.at(whole.common_precision)
    cases = measured.cases[measured.cases["latency_s"].notna() & measured.cases["achieved_flop_per_s"].notna()]
    cases = cases[cases["achievable_flop_per_s"].notna()]
    batches = shared.shown_batches(cases)
    shown = cases[cases["batch_size"].isin(batches)]
    causes = split(shown, measured, root)
    gains = precision_gains(whole)
    return Found(
        batches=batches,
        all_batches=sorted({int(size) for size in cases["batch_size"]}),
        cases=cases,
        ceilings=measured.ceilings,
        shown=shown,
        causes=causes,
        utilisation_table=utilisation_table(shown, measured.series, batches),
        cause_table=cause_table(causes, measured.series),
        roof_table=roof_table(whole),
        gains=gains,
        say=SimpleNamespace(
            **_introduction(measured, whole, batches),
            **_roof_sentences(cases, measured),
            **_utilisation_sentences(shown, measured, batches),
            **_cause_sentences(causes, measured, batches),
            **_precision_sentences(gains, whole),
            **_variant_sentences(whole),
            **_alternative_texts(cases, shown, causes, measured, batches),
        ),
    )


# Tables


def layer_efficiency(
    machine: str, device: str, precision: str, model: str, measured: Measured, root: Path | None
) -> dict:
    """How many times longer than at the roof each layer type took in an instrumented forward pass of a network.

    From the raw rows of the machine's breakdown of a training step (`schema.BREAKDOWN`); empty if that network was not
    broken down on that device. The pass ran at a batch size of its own, so that its roof is computed at that size.
    """
    breakdown = getattr(store.load(machine, root), "breakdown", None)
    hardware = measured.hardware.get((machine, device, precision))
    if breakdown is None or breakdown.empty or hardware is None:
        return {}
    own = breakdown[
        (breakdown["model"] == model) & (breakdown["device"] == device) & (breakdown["precision"] == precision)
        & (breakdown["phase"] == "forward") & (breakdown["part"] == "operations") & ~breakdown["is_warmup"].astype(bool)
    ]  # fmt: skip
    if own.empty:
        return {}
    batch_size = int(own["batch_size"].iloc[0])
    own = own[own["batch_size"] == batch_size]
    took = own.groupby(["layer_type", "index"])["latency_s"].sum().groupby("layer_type").median()
    roof = predict.operation_times(shared.operations(model, batch_size, precision), hardware)
    at_roof = roof.groupby("layer_type")["roof_s"].sum()
    return {kind: float(took[kind] / at_roof[kind]) for kind in took.index if at_roof.get(kind, 0.0) > 0}


def split(shown: pd.DataFrame, measured: Measured, root: Path | None = None) -> pd.DataFrame:
    """The measured time of each case as causes that add up to it: series, model, batch_size, cause, layer_type, time_s.

    ``share`` is of the case's latency; ``is_capped`` marks cases whose roof alone is longer (`predict.decompose`), and
    ``is_apportioned`` those whose loss is told apart by layer type (`layer_efficiency`).
    """
    tables = []
    for row in shown.itertuples():
        hardware = measured.hardware.get((row.machine, row.device, row.precision))
        if hardware is None:
            continue
        times = predict.operation_times(shared.operations(row.model, row.batch_size, row.precision), hardware)
        slower = layer_efficiency(row.machine, row.device, row.precision, row.model, measured, root)
        by_type = times.groupby("layer_type")["roof_s"].sum()
        took = {kind: time * slower.get(kind, 1.0) for kind, time in by_type.items()} if slower else None
        parts = predict.decompose(row.latency_s, times, hardware, took)
        tables.append(
            parts.assign(
                series=row.series, model=row.model, batch_size=row.batch_size, latency_s=row.latency_s,
                share=parts["time_s"] / row.latency_s, is_capped=parts.attrs["is_capped"], is_apportioned=bool(slower),
            )
        )  # fmt: skip
    columns = ["series", "model", "batch_size", "latency_s", "cause", "layer_type", "time_s", "share", "is_capped",
               "is_apportioned"]  # fmt: skip
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def largest_causes(causes: pd.DataFrame) -> pd.DataFrame:
    """Per case the cause that takes most, losses of all layer types together, and the layer type that loses most."""
    rows = []
    for (series, model, batch_size), group in causes.groupby(["series", "model", "batch_size"], sort=False):
        shares = group.groupby("cause")["share"].sum()
        lost = group[(group["cause"] == LOST) & (group["layer_type"] != "")]
        rows.append({
            "series": series, "model": model, "batch_size": batch_size, "latency_s": group["latency_s"].iloc[0],
            "cause": shares.idxmax(), "share": shares.max(),
            "layer_type": lost.loc[lost["share"].idxmax(), "layer_type"] if len(lost) else "",
            **{name: shares.get(name, 0.0) for name in predict.CAUSES},
        })  # fmt: skip
    columns = ["series", "model", "batch_size", "latency_s", "cause", "share", "layer_type", *predict.CAUSES]
    return pd.DataFrame(rows, columns=columns)


def cause_table(causes: pd.DataFrame, series: Sequence[Series]) -> pd.DataFrame:
    """The largest cause of each case in words, one row a network, one column a series and batch size."""
    largest = largest_causes(causes)
    columns: dict[str, dict[str, str]] = {}
    for row in largest.itertuples():
        end = f", {row.series}" if len(series) > 1 else ""
        word = CAUSE_WORDS[row.cause].removesuffix(" operations at the roof") + (
            f": {row.layer_type}" if row.cause == LOST and row.layer_type else ""
        )
        columns.setdefault(f"batch {row.batch_size}{end}", {})[row.model] = f"{word}, {report.percent(row.share)}"
    return pd.DataFrame(columns).rename_axis("network").reset_index()


def utilisation_table(shown: pd.DataFrame, series: Sequence[Series], batches: Sequence[int]) -> pd.DataFrame:
    """Achieved FLOP/s, utilisation and MFU at each batch size shown, as finished strings, one row a network."""
    has_peak = shown["mfu"].notna().any()
    rows = []
    for (label, model), group in shown.groupby(["series", "model"], sort=False):
        row = {"hardware": label} if len(series) > 1 else {}
        row |= {"network": model}
        by_batch = group.set_index("batch_size")
        for batch in batches:
            case = by_batch.loc[batch] if batch in by_batch.index else None
            row[f"FLOP/s, batch {batch}"] = None if case is None else report.flop_rate(case["achieved_flop_per_s"])
            row[f"util., {batch}"] = None if case is None else report.percent(case["utilisation"])
            if has_peak:
                known = case is not None and np.isfinite(case["mfu"])
                row[f"MFU, {batch}"] = report.percent(case["mfu"]) if known else None
        rows.append(row)
    return pd.DataFrame(rows)


def precision_gains(whole: Measured) -> pd.DataFrame:
    """Per other precision of a device, network and batch size: latency at the common precision over latency at it.

    Columns: series (of the other precision), model, batch_size, gain with ``low`` and ``high`` (the extremes that the
    two intervals allow), and ``roof_gain``, the ratio of the achievable FLOP/s.
    """
    common = whole.common_precision
    key = ["machine", "device", "model", "batch_size"]
    columns = [*key, "latency_s", "latency_low_s", "latency_high_s", "achievable_flop_per_s", "series"]
    cases = whole.cases[whole.cases["latency_s"].notna()]
    base = cases.loc[cases["precision"] == common, columns]
    other = cases.loc[cases["precision"] != common, columns]
    both = other.merge(base.drop(columns="series"), on=key, suffixes=("", "_common"))
    return pd.DataFrame({
        "series": both["series"], "model": both["model"], "batch_size": both["batch_size"],
        "gain": both["latency_s_common"] / both["latency_s"],
        "low": both["latency_low_s_common"] / both["latency_high_s"],
        "high": both["latency_high_s_common"] / both["latency_low_s"],
        "roof_gain": both["achievable_flop_per_s"] / both["achievable_flop_per_s_common"],
    })  # fmt: skip


def roof_table(whole: Measured) -> pd.DataFrame:
    """Achievable and datasheet ceilings of each series, as finished strings."""
    ceilings = whole.ceilings.set_index("series")

    def shown(value: float, word) -> str:
        return word(value) if np.isfinite(value) else "–"

    rows = [
        {
            "hardware": one.hardware,
            "precision": one.precision,
            "achievable": shown(row.achievable_flop_per_s, report.flop_rate),
            "by": row.achievable_kernel,
            "peak": shown(row.peak_flop_per_s, report.flop_rate),
            "memory, achievable": shown(row.achievable_byte_per_s, report.bandwidth),
            "memory, datasheet": shown(row.peak_byte_per_s, report.bandwidth),
            "ridge": report.intensity(row.achievable_flop_per_s / row.achievable_byte_per_s),
            "dispatch": report.duration(row.overhead_s),
        }
        for one in whole.series
        for row in [ceilings.loc[one.label]]
    ]
    return pd.DataFrame(rows)


# Sentences


def _at(one: Series) -> str:
    return f"On the {one.label}"


def _per_series(series: Sequence[Series], sentence) -> Text:
    """One sentence after another, for each series that has one."""
    return Text(" ".join(filter(None, (sentence(one) for one in series))) or "Nothing was measured that tells.")


def _introduction(measured: Measured, whole: Measured, batches: Sequence[int]) -> dict[str, Text]:
    others = [one.precision for one in whole.series if one.precision != measured.series[0].precision]
    return {
        "devices": shared.accelerator_sentence(whole),
        "precision": Text(measured.series[0].precision),
        "other_precisions": Text(
            f"What {report.listing(dict.fromkeys(others))} {'gains' if len(set(others)) == 1 else 'gain'} is told "
            "apart, in @sec-utilisation-precision."
            if others
            else "No other precision was measured."
        ),
        "batches": report.listing(map(str, batches)),
        "n_networks": report.number(measured.cases["model"].nunique()),
        "missing": Text(
            "Every case has a latency."
            if measured.cases["latency_s"].notna().all()
            else f"Without a latency, and so without a point: {shared.missing_cases(measured.cases)}."
        ),
    }


def _roof_sentences(cases: pd.DataFrame, measured: Measured) -> dict[str, Text]:
    def datasheet(one: Series) -> str:
        own = measured.ceilings[measured.ceilings["series"] == one.label]
        if own.empty:
            return f"No ceiling was measured on the {one.label}."
        row = own.iloc[0]
        ridge = row["achievable_flop_per_s"] / row["achievable_byte_per_s"]
        text = (
            f"On the {one.hardware} the best kernel achieves {report.flop_rate(row['achievable_flop_per_s'])} in "
            f"{one.precision} "
            f"and memory {report.bandwidth(row['achievable_byte_per_s'])}, so that the ridge lies at "
            f"{report.intensity(ridge)}"
        )
        if not np.isfinite(row["peak_flop_per_s"]):
            return f"{text}; its datasheet is not in our table of chips, so there is no peak to set beside it."
        share = row["achievable_flop_per_s"] / row["peak_flop_per_s"]
        return (
            f"{text}; the kernel reaches {report.percent(share)} of the peak of "
            f"{report.flop_rate(row['peak_flop_per_s'])} that follows from the datasheet of the {one.chip}"
            f"{_peak_note(one, row)}."
        )

    def path(one: Series) -> str:
        own = cases[cases["series"] == one.label]
        if own.empty:
            return ""
        low, high = (own.loc[own["achieved_flop_per_s"].agg(name)] for name in ("idxmin", "idxmax"))
        first = own.sort_values("batch_size").groupby("model").first()
        last = own.sort_values("batch_size").groupby("model").last()
        grown = (last["achieved_flop_per_s"] / first["achieved_flop_per_s"])[last["batch_size"] > first["batch_size"]]
        text = (
            f"{_at(one)}, networks achieve from {report.flop_rate(low['achieved_flop_per_s'])} ({low['model']}, batch "
            f"{low['batch_size']}) to {report.flop_rate(high['achieved_flop_per_s'])} ({high['model']}, batch "
            f"{high['batch_size']})."
        )
        if grown.empty:
            return text
        return (
            f"{text} From its smallest to its largest batch a network's rate changes by factors from "
            f"{report.significant(grown.min(), 2)} ({grown.idxmin()}) to {report.significant(grown.max(), 2)} "
            f"({grown.idxmax()})."
        )

    def cached(one: Series) -> str:
        own = cases[cases["series"] == one.label]
        over = own[own["utilisation"] > 1]
        if over.empty:
            return f"{_at(one)}, no point lies above the slope at its eager intensity either."
        names = report.listing(
            f"{model} (batch {report.listing(map(str, sizes))})"
            for model, sizes in over.groupby("model", sort=False)["batch_size"].apply(list).items()
        )
        return (
            f"{_at(one)}, {report.plural(len(over), 'case')} lie{'s' if len(over) == 1 else ''} above the slope at "
            f"eager intensity: {names}. That is no contradiction: caches keep part of the traffic that the eager model "
            "counts."
        )

    beyond = metrics.above_roof(cases)
    return {
        "ceilings": _per_series(measured.series, datasheet),
        "paths": _per_series(measured.series, path),
        "cached": _per_series(measured.series, cached),
        "above_roof": Text(
            f"None of the {report.plural(len(cases), 'point')} lies above the achievable roof at its minimum-bytes "
            "intensity; a test fails with the point's name if one does."
            if not beyond
            else f"These points lie above the achievable roof, a defect to explain: {'; '.join(beyond)}."
        ),
    }


def _peak_note(one: Series, row: pd.Series) -> str:
    if one.is_accelerator:
        return ""
    hidden = " (the system hides the processor's own name; that chip has its family and model number)"
    note = ", for the cores of this machine at the clock that they were seen to run at"
    return f"{hidden if row['is_hidden'] else ''}{note}"


def _utilisation_sentences(shown: pd.DataFrame, measured: Measured, batches: Sequence[int]) -> dict[str, Text]:
    def reading(one: Series) -> str:
        parts = []
        for batch in batches:
            own = shown[(shown["series"] == one.label) & (shown["batch_size"] == batch)]
            if own.empty:
                continue
            value = own.set_index("model")["utilisation"]
            text = (
                f"at batch {batch} from {report.percent(value.min())} ({value.idxmin()}) to "
                f"{report.percent(value.max())} ({value.idxmax()}), {report.percent(value.median())} in the median"
            )
            if own["mfu"].notna().any():
                text += f", where MFU is {report.percent(own['mfu'].median())} in the median"
            parts.append(text)
        return f"{_at(one)}, utilisation goes {'; '.join(parts)}." if parts else ""

    def bound(one: Series) -> str:
        parts = []
        for batch in batches:
            own = shown[(shown["series"] == one.label) & (shown["batch_size"] == batch)]
            if own.empty:
                continue
            slope = metrics.is_memory_bound(own, "eager")
            parts.append(f"{report.number(int(slope.sum()))} of {report.number(len(own))} at batch {batch}")
        return f"{_at(one)}, the slope is what limits {report.listing(parts)} at eager intensity." if parts else ""

    def takeaway(one: Series) -> str:
        own = shown[shown["series"] == one.label]
        if own.empty:
            return ""
        by_family = own.groupby("family")["utilisation"].median().sort_values()
        listed = report.listing(f"{name} {report.percent(value)}" for name, value in by_family[::-1].items())
        return f"On the {one.hardware} in {one.precision}, median utilisation by family of networks is: {listed}."

    return {
        "utilisation": _per_series(measured.series, reading),
        "memory_bound": _per_series(measured.series, bound),
        "utilisation_takeaway": _per_series(measured.series, takeaway),
    }


def _cause_sentences(causes: pd.DataFrame, measured: Measured, batches: Sequence[int]) -> dict[str, Text]:
    largest = largest_causes(causes)

    def reading(one: Series) -> str:
        parts = []
        for batch in batches:
            own = largest[(largest["series"] == one.label) & (largest["batch_size"] == batch)]
            if own.empty:
                continue
            counts = own["cause"].value_counts()
            listed = report.listing(
                f"{CAUSE_WORDS[cause]} for {report.plural(count, 'network')}" for cause, count in counts.items()
            )
            parts.append(f"at batch {batch} the largest cause is {listed}")
        return f"{_at(one)}, {'; '.join(parts)}." if parts else f"No ceiling tells causes apart on the {one.label}."

    def total(one: Series) -> str:
        own = causes[causes["series"] == one.label]
        if own.empty:
            return ""
        # Each case counts alike: seconds would let the slowest network speak for all.
        mean = own.groupby(["model", "batch_size", "cause"])["share"].sum().groupby("cause").mean()
        top = mean.idxmax()
        listed = report.listing(
            f"{report.percent(mean.get(cause, 0.0))} {CAUSE_WORDS[cause]}"
            for cause in predict.CAUSES
            if round(mean.get(cause, 0.0), 3) > 0
        )
        return f"{_at(one)}, averaged over the cases shown, time goes to: {listed}. The largest is {CAUSE_WORDS[top]}."

    def lost(one: Series) -> str:
        own = causes[(causes["series"] == one.label) & (causes["cause"] == LOST) & causes["is_apportioned"]]
        own = own[own["layer_type"] != ""]
        if own.empty:
            return ""
        cases = own.groupby(["model", "batch_size"]).ngroups
        by_type = (own.groupby("layer_type")["share"].sum() / cases).sort_values(ascending=False)
        listed = report.listing(f"{kind} ({report.percent(share)})" for kind, share in by_type.head(3).items())
        return f"{_at(one)}, the layer types that lose most of the time to kernels below their roof are {listed}."

    capped = largest[largest["model"].isin(causes.loc[causes["is_capped"], "model"])]
    is_capped = causes[causes["is_capped"]].groupby(["series", "model", "batch_size"], sort=False).ngroups
    apportioned = sorted(set(causes.loc[causes["is_apportioned"], "model"]), key=list(causes["model"]).index)
    return {
        "causes": _per_series(measured.series, reading),
        "causes_mean": _per_series(measured.series, total),
        "lost_types": Text(
            " ".join(filter(None, (lost(one) for one in measured.series)))
            or "No instrumented pass was measured, so the loss can't be told apart by type of operation here."
        ),
        "capped": Text(
            f"In {report.number(is_capped)} of {report.plural(len(largest), 'case')} the estimate at the roof alone is "
            "longer than the measured time, and a cause was cut short: caches spared traffic that the eager model "
            "counts."
            if len(capped)
            else f"In none of the {report.plural(len(largest), 'case')} is the estimate at the roof alone longer than "
            "the measured time."
        ),
        "apportioned": Text(
            f"For {report.listing(apportioned)} that loss is told apart by type of operation, in the proportions of an "
            "instrumented forward pass of a training step on the same device (@sec-training); for the others it is one "
            "part."
            if apportioned
            else "No instrumented pass was measured, so that loss is one part."
        ),
        "dispatch": _dispatch_sentence(largest, measured),
        "causes_takeaway": _per_series(measured.series, lambda one: _takeaway(causes, one)),
    }


def _takeaway(causes: pd.DataFrame, one: Series) -> str:
    """How the explained share differs between the smallest and the largest batch shown."""
    own = causes[(causes["series"] == one.label) & causes["cause"].isin([COMPUTE, MEMORY])]
    if own.empty:
        return ""
    explained = own.groupby(["batch_size", "model"])["share"].sum().groupby("batch_size").median()
    parts = [f"{report.percent(share)} at batch {batch}" for batch, share in explained.items()]
    return (
        f"On the {one.hardware} in {one.precision}, the roofline of the operations explains, in the median network, "
        f"{report.listing(parts)} of the time; the rest is what faster kernels, or less time around them, could win."
    )


def _dispatch_sentence(largest: pd.DataFrame, measured: Measured) -> Text:
    """For which network and batch dispatch weighs most, per series."""
    parts = []
    for one in measured.series:
        own = largest[largest["series"] == one.label]
        if own.empty:
            continue
        top = own.loc[own[DISPATCH].idxmax()]
        parts.append(
            f"{_at(one)}, dispatch weighs most for {top['model']} at batch {top['batch_size']}: "
            f"{report.percent(top[DISPATCH])} of its latency."
        )
    return Text(" ".join(parts) or "Nothing was measured that tells.")


def _precision_sentences(gains: pd.DataFrame, whole: Measured) -> dict[str, Text]:
    """What each other precision gains over the common one, beside what its roof gains."""
    common, parts = whole.common_precision, []
    for series, group in gains.groupby("series", sort=False):
        gain = group.set_index("model")["gain"]
        slower = int((group["high"] < 1).sum())
        parts.append(
            f"On the {series}, the median of {report.plural(len(group), 'case')} runs "
            f"{report.significant(gain.median(), 2)} times as fast as in {common}, between "
            f"{report.significant(gain.min(), 2)} times ({gain.idxmin()}) and {report.significant(gain.max(), 2)} "
            f"times ({gain.idxmax()}); the roof is {report.significant(group['roof_gain'].iloc[0], 2)} times as high. "
            f"{report.choose(slower == 0, 'No case', report.plural(slower, 'case'))} "
            f"{'is' if slower <= 1 else 'are'} slower in it beyond the intervals."
        )
    return {
        "precision_gain": Text(" ".join(parts) or f"No precision but {common} was measured."),
        "common": Text(common),
        "alt_gain": Text(f"Speed relative to {common}, one row a network. {' '.join(parts) or 'Nothing to show.'}"),
    }


def _variant_sentences(measured: Measured) -> dict[str, Text]:
    """What other memory formats and compile modes gain over the main cases, where both were measured."""
    key = ["series", "model", "batch_size"]
    main = measured.cases.set_index(key)["latency_s"]
    names = {"contiguous": "contiguous tensors", "channels_last": "channels-last tensors"}
    parts = []
    usable = measured.variants[measured.variants["latency_s"].notna()]
    for (series, memory_format, mode), group in usable.groupby(["series", "memory_format", "compile_mode"], sort=False):
        gain = (main / group.set_index(key)["latency_s"]).dropna()
        if gain.empty:
            continue
        what = names[memory_format] + ("" if mode == "eager" else f" and {mode.replace('_', ' ')}")
        word = report.choose(gain.median() > 1, "shorter", "longer")
        factor = max(gain.median(), 1 / gain.median())
        parts.append(
            f"On the {series}, {what} make the latency of the median case {report.significant(factor, 3)} times {word} "
            f"({report.plural(len(gain), 'case')}), between a factor of {report.significant(gain.min(), 2)} for "
            f"{gain.idxmin()[1]} and {report.significant(gain.max(), 2)} for {gain.idxmax()[1]}."
        )
    return {"variants": Text(" ".join(parts) or "No other memory format or compile mode was measured.")}


def _alternative_texts(
    cases: pd.DataFrame, shown: pd.DataFrame, causes: pd.DataFrame, measured: Measured, batches: Sequence[int]
) -> dict[str, Text]:
    by_series = [
        f"{one.label} from {report.flop_rate(own.min())} to {report.flop_rate(own.max())}"
        for one in measured.series
        if len(own := cases.loc[cases["series"] == one.label, "achieved_flop_per_s"])
    ]
    utilisation = [
        f"{one.label} {report.percent(own.median())}"
        for one in measured.series
        if len(own := shown.loc[shown["series"] == one.label, "utilisation"])
    ]
    mean = causes.groupby(["series", "model", "batch_size", "cause"])["share"].sum().groupby("cause").mean()
    shares = report.listing(f"{CAUSE_WORDS[cause]} {report.percent(share)}" for cause, share in mean.items())
    return {
        "alt_rooflines": Text(
            "Rooflines with each network's achieved performance as a path over batch sizes, one panel per family. "
            f"Achieved: {report.listing(by_series)}."
        ),
        "alt_utilisation": Text(
            f"Utilisation and MFU of each network at batch {report.listing(map(str, batches))}. Median utilisation: "
            f"{report.listing(utilisation)}."
        ),
        "alt_causes": Text(f"Stacked bars of measured time by cause. Mean shares: {shares}."),
    }
