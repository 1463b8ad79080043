"""What the networks ask for: tables for the figures, and the values and sentences that the chapter quotes.

Counts come from `src.workload`; hardware from the chip table and from the machines that were measured. Words that
compare or judge are computed, so that they stay true of another reader's machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd

from src import ceilings, chips, models, reconcile, report, roofline, schema, store, workload
from src.findings.chips import EXAMPLES, short_name
from src.report import Text

BATCH_SIZES = (1, 4, 16, 64, 256, 1024)
BATCH_SIZE = 64
"""The batch size at which networks are compared."""

PRECISION = "fp32"
VERDICT_BATCH_SIZES = (1, 64, 256)
PRECISIONS = ("fp32", "bf16")
SPREAD_OF = ("resnet50", "mobilenet_v2", "densenet121", "convnext_tiny", "vit_b_16", "swin_t", "gpt2_prefill",
             "gpt2_decode")  # fmt: skip
"""Networks whose layers are shown one by one: one of each design."""

VERDICTS = ("memory-bound", "either", "compute-bound")


def counts(names: Sequence[str] = models.MEASURED) -> pd.DataFrame:
    """Every network at `BATCH_SIZES` in fp32 and at `VERDICT_BATCH_SIZES` in bf16: the columns of `schema.WORKLOADS`.

    Adds ``flop_per_input``. Training columns are filled at the batch size of comparison and fp32 alone.
    """
    plain = workload.rows(names, BATCH_SIZES, (PRECISION,), training=False)
    plain += workload.rows(names, VERDICT_BATCH_SIZES, PRECISIONS[1:], training=False)
    trained = workload.rows(names, (BATCH_SIZE,), (PRECISION,), training=True)
    full = {(row["model"], row["batch_size"], row["precision"]): row for row in trained}
    rows = [full.get((row["model"], row["batch_size"], row["precision"]), row) for row in plain]
    table = pd.DataFrame(rows, columns=schema.WORKLOADS.names)
    table["flop_per_input"] = table["flop"] / table["batch_size"]
    return table


def at(table: pd.DataFrame, batch_size: int = BATCH_SIZE, precision: str = PRECISION) -> pd.DataFrame:
    """The rows of one batch size and precision."""
    chosen = (table["batch_size"] == batch_size) & (table["precision"] == precision)
    return table[chosen].reset_index(drop=True)


def order(table: pd.DataFrame) -> list[str]:
    """Networks by FLOPs per input, fewest first: the one order of every figure and table of the chapter."""
    return list(at(table).sort_values(["flop_per_input", "model"])["model"])


# Figures of the networks alone.


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """Long table of what is compared: model, family, panel, series, value."""
    rows = []
    for row in at(table).itertuples():
        head = {"model": row.model, "family": row.family}
        rows.append(head | {"panel": "flop", "series": "FLOPs per input", "value": row.flop_per_input})
        rows.append(head | {"panel": "parameters", "series": "parameters", "value": row.param_count})
        rows.append(head | {"panel": "memory", "series": "parameters", "value": row.param_byte})
        rows.append(head | {"panel": "memory", "series": "activations", "value": row.activation_peak_byte})
        rows.append(head | {"panel": "intensity", "series": "eager", "value": row.intensity_eager})
        rows.append(head | {"panel": "intensity", "series": "minimum", "value": row.intensity_max})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The chapter's table: one row per network in the chapter's order, finished for display."""
    rows = at(table).set_index("model").loc[order(table)].reset_index()
    return pd.DataFrame(
        {
            "Network": rows["model"],
            "GFLOP per input": rows["flop_per_input"].map(lambda v: report.significant(v / 1e9)),
            "Params, M": rows["param_count"].map(lambda v: report.significant(v / 1e6)),
            "Activ. per input, M": (rows["activation_count"] / BATCH_SIZE / 1e6).map(report.significant),
            "Params, MB": rows["param_byte"].map(lambda v: report.significant(v / 1e6)),
            "Activ. peak, MB": rows["activation_peak_byte"].map(lambda v: report.significant(v / 1e6)),
            "Inference peak, MB": rows["peak_memory_byte"].map(lambda v: report.significant(v / 1e6)),
            "Training peak, GB": rows["training_peak_memory_byte"].map(_gigabytes),
            "Intensity, eager": rows["intensity_eager"].map(report.significant),
            "Intensity, minimum": rows["intensity_max"].map(report.significant),
        }
    )


def _gigabytes(value: float) -> str | None:
    return None if pd.isna(value) else report.significant(value / 1e9)


def paths(table: pd.DataFrame, precision: str = PRECISION) -> pd.DataFrame:
    """Each network's two intensities at each batch size: model, family, batch_size, intensity_eager, intensity_max."""
    columns = ["model", "family", "batch_size", "intensity_eager", "intensity_max"]
    return table.loc[table["precision"] == precision, columns].reset_index(drop=True)


def layers(names: Sequence[str] = SPREAD_OF) -> pd.DataFrame:
    """Every operation with model FLOPs of some networks at the batch size of comparison.

    model, module, name, layer_type, intensity (eager), flop, flop_share (of its network).
    """
    operations = workload.operation_frame(workload.count(name, BATCH_SIZE, PRECISION) for name in names)
    counted = operations[operations["flop"] > 0].copy()
    counted["flop_share"] = counted["flop"] / counted.groupby("model")["flop"].transform("sum")
    columns = ["model", "module", "name", "layer_type", "intensity", "flop", "flop_share"]
    return counted[columns].reset_index(drop=True)


def traffic(names: Sequence[str]) -> pd.DataFrame:
    """Shares of each network's FLOPs and eager bytes by layer type: model, layer_type, quantity, share."""
    rows = []
    for name in names:
        groups = workload.by(workload.count(name, BATCH_SIZE, PRECISION).operations, "type")
        for quantity, column in (("model FLOPs", "flop"), ("bytes moved", "bytes_moved")):
            total = sum(group[column] for group in groups)
            rows += [
                {"model": name, "layer_type": g["group"], "quantity": quantity, "share": g[column] / total}
                for g in groups
                if g[column]
            ]
    return pd.DataFrame(rows)


# Hardware.


def targets(table: pd.DataFrame | None = None, machines: Iterable[store.Measured] | None = None) -> pd.DataFrame:
    """The hardware that networks are judged on: machines that were measured first, then one chip of each kind.

    Columns: target (label), device, kind, source ("measured" or "datasheet"), precision, ``flop_per_s`` and
    ``byte_per_s`` (achievable where measured, else peak), ``peak_flop_per_s`` and ``peak_byte_per_s`` (datasheet, NaN
    where unknown), ``ridge_flop_per_byte`` (of flop_per_s and byte_per_s).
    """
    table = chips.load() if table is None else table
    if machines is None:
        machines = [store.load(name) for name in store.machines()]
    rows = [row for machine in machines for row in _measured_targets(machine, table)]
    rows += [_chip_target(chip, precision, path, table) for chip, precision, path in EXAMPLES.values()]
    frame = pd.DataFrame(rows)
    frame["ridge_flop_per_byte"] = roofline.ridge_point(frame["flop_per_s"], frame["byte_per_s"])
    return frame


def _measured_targets(machine: store.Measured, table: pd.DataFrame) -> list[dict]:
    rows = []
    for best in ceilings.achievable(machine.ceilings).itertuples():
        if best.precision not in PRECISIONS:
            continue
        try:
            byte_per_s = ceilings.achievable_byte_per_s(machine.ceilings, machine.environment, best.device)
        except ValueError:
            continue  # without a bandwidth there is no roof
        system_name = machine.environment["processor" if best.device == "cpu" else "accelerator"]
        peak, bandwidth = _datasheet(machine.environment, system_name, best.device, best.precision, table)
        cores = f" ({machine.environment['physical_cores']} cores)" if best.device == "cpu" else ""
        rows.append({
            "target": f"{short_name(str(system_name))}{cores}, {best.precision}", "device": best.device,
            "kind": "CPU" if best.device == "cpu" else "GPU", "source": "measured", "precision": best.precision,
            "flop_per_s": best.achievable_flop_per_s, "byte_per_s": byte_per_s, "peak_flop_per_s": peak,
            "peak_byte_per_s": bandwidth,
        })  # fmt: skip
    return rows


def _datasheet(
    environment: Mapping, system_name: object, device: str, precision: str, table: pd.DataFrame
) -> tuple[float, float]:
    """Peak FLOP/s and byte/s of a measured machine's chip, NaN where the table does not know it."""
    chip = chips.match(str(system_name))
    found = table[(table["chip"] == chip) & (table["precision"] == precision)].sort_values("peak_flop_per_s")
    if found.empty:
        return np.nan, np.nan
    row = found.iloc[-1]
    if device != "cpu":
        return row["peak_flop_per_s"], row["bandwidth_byte_per_s"]
    # A virtual machine sees some of the chip's cores; which part of its memory bandwidth goes with them is unknown.
    return chips.machine_peak(row.to_dict(), environment["physical_cores"]), np.nan


def _chip_target(chip: str, precision: str, path: str, table: pd.DataFrame) -> dict:
    found = table[(table["chip"] == chip) & (table["precision"] == precision) & (table["path"] == path)]
    row = found.sort_values("peak_flop_per_s").iloc[-1]
    return {
        "target": f"{short_name(chip)}, {precision}", "device": "", "kind": row["kind"], "source": "datasheet",
        "precision": precision, "flop_per_s": row["peak_flop_per_s"], "byte_per_s": row["bandwidth_byte_per_s"],
        "peak_flop_per_s": row["peak_flop_per_s"], "peak_byte_per_s": row["bandwidth_byte_per_s"],
    }  # fmt: skip


def at_hand(targets_: pd.DataFrame, kind: str) -> pd.Series:
    """The target of a kind that stands for "the one at hand": measured if there is one, at its widest use here.

    A CPU is shown at fp32; a GPU at bf16, where its matrix units are, if that was measured.
    """
    wanted = ("fp32", "bf16") if kind == "CPU" else ("bf16", "fp32")
    found = targets_[targets_["kind"] == kind].copy()
    found["rank"] = found["precision"].map({p: i for i, p in enumerate(wanted)}).fillna(len(wanted))
    found["is_datasheet"] = found["source"] == "datasheet"
    return found.sort_values(["is_datasheet", "rank"], kind="stable").iloc[0]


def ridges(*chosen: Mapping) -> pd.DataFrame:
    """Ridge points as lines to draw: target, ridge_flop_per_byte."""
    return pd.DataFrame(
        [{"target": target["target"], "ridge_flop_per_byte": target["ridge_flop_per_byte"]} for target in chosen]
    )


def _count_precision(precision: str) -> str:
    """The precision in which traffic was counted for arithmetic at a precision: only the element's size matters."""
    return "fp32" if schema.PRECISION_BYTES[precision] == 4 else "bf16"


def ranges(table: pd.DataFrame, target: Mapping, batch_size: int = BATCH_SIZE) -> pd.DataFrame:
    """Each network's range of intensity on a target, and what the roof allows at both ends.

    model, family, intensity_eager, intensity_max, attainable_eager_flop_per_s, attainable_max_flop_per_s, verdict.
    """
    rows = at(table, batch_size, _count_precision(target["precision"]))
    frame = rows[["model", "family", "intensity_eager", "intensity_max"]].copy()
    for end in ("eager", "max"):
        frame[f"attainable_{end}_flop_per_s"] = roofline.attainable_flop_per_s(
            frame[f"intensity_{end}"], target["flop_per_s"], target["byte_per_s"]
        )
    frame["verdict"] = [verdict(row.intensity_eager, row.intensity_max, target) for row in frame.itertuples()]
    return frame


def verdict(intensity_eager: float, intensity_max: float, target: Mapping) -> str:
    """ "compute-bound" if even eager traffic is, "memory-bound" if even minimum traffic is, else "either"."""
    ends = [
        bool(roofline.is_compute_bound(end, target["flop_per_s"], target["byte_per_s"]))
        for end in (intensity_eager, intensity_max)
    ]
    if all(ends):
        return "compute-bound"
    return "either" if any(ends) else "memory-bound"


def roof(target: Mapping, domain: tuple[float, float]) -> pd.DataFrame:
    """A target's roofs as lines: ceiling ("achievable", "datasheet peak"), intensity, flop_per_s."""
    lines = [("achievable" if target["source"] == "measured" else "datasheet peak", "flop_per_s", "byte_per_s")]
    if target["source"] == "measured" and not pd.isna(target["peak_flop_per_s"] + target["peak_byte_per_s"]):
        lines.append(("datasheet peak", "peak_flop_per_s", "peak_byte_per_s"))
    parts = []
    for name, peak, slope in lines:
        ridge = float(roofline.ridge_point(target[peak], target[slope]))
        x = np.array(sorted({domain[0], ridge, domain[1]}))
        y = roofline.attainable_flop_per_s(x, target[peak], target[slope])
        parts.append(pd.DataFrame({"ceiling": name, "intensity": x, "flop_per_s": y}))
    return pd.concat(parts, ignore_index=True)


def domain(table: pd.DataFrame, targets_: pd.DataFrame) -> tuple[float, float]:
    """Intensities in FLOP/byte that hold every network at `BATCH_SIZE` and every ridge point, rounded to decades."""
    rows = table[table["batch_size"] == BATCH_SIZE]
    values = [*rows["intensity_eager"], *rows["intensity_max"], *targets_["ridge_flop_per_byte"]]
    return 10.0 ** np.floor(np.log10(min(values))), 10.0 ** np.ceil(np.log10(max(values)))


def chip_roofs(table: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """The roof of every chip at 32 and 16 bits as lines, for choosing one: chip, element_byte, intensity, flop_per_s.

    Of several paths or precisions of one size the fastest counts. Chips without a memory of their own have none.
    """
    known = table[table["bandwidth_byte_per_s"].notna() & table["precision"].isin(["fp32", "bf16", "fp16"])].copy()
    known["element_byte"] = known["precision"].map(schema.PRECISION_BYTES)
    best = known.loc[known.groupby(["chip", "element_byte"])["peak_flop_per_s"].idxmax()]
    parts = []
    for row in best.itertuples():
        x = np.array(sorted({low, min(max(row.ridge_flop_per_byte, low), high), high}))
        y = roofline.attainable_flop_per_s(x, row.peak_flop_per_s, row.bandwidth_byte_per_s)
        parts.append(
            pd.DataFrame(
                {
                    "chip": f"{row.chip}, {row.precision}",
                    "element_byte": int(row.element_byte),
                    "intensity": x,
                    "flop_per_s": y,
                    "ridge": row.ridge_flop_per_byte,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def first_choice(roofs: pd.DataFrame, gpu: Mapping) -> str:
    """The entry of the menu of chips that is shown first: the GPU at hand, or else the book's example."""
    names = list(dict.fromkeys(roofs["chip"]))
    wanted = [name for name in names if short_name(name.rpartition(",")[0]) == gpu["target"].rpartition(",")[0]]
    wanted += [name for name in names if name.startswith(f"{EXAMPLES['GPU'][0]}, ")]
    return next((name for name in wanted if name.endswith(f", {gpu['precision']}")), names[0])


def chip_ranges(table: pd.DataFrame) -> pd.DataFrame:
    """Each network's intensities at 32 and at 16 bits: model, family, element_byte, intensity_eager, intensity_max."""
    rows = table[table["batch_size"] == BATCH_SIZE].copy()
    rows["element_byte"] = rows["precision"].map(schema.PRECISION_BYTES).astype(int)
    return rows[["model", "family", "element_byte", "intensity_eager", "intensity_max"]].reset_index(drop=True)


def verdicts(table: pd.DataFrame, targets_: pd.DataFrame) -> pd.DataFrame:
    """The verdict of every network on every target at every batch size of `VERDICT_BATCH_SIZES`.

    target, source, model, family, batch_size, verdict, intensity_eager, intensity_max, ridge_flop_per_byte.
    """
    parts = []
    for _, target in targets_.iterrows():
        for batch_size in VERDICT_BATCH_SIZES:
            found = ranges(table, target, batch_size)
            parts.append(found.assign(
                target=target["target"], source=target["source"], batch_size=batch_size,
                ridge_flop_per_byte=target["ridge_flop_per_byte"],
            ))  # fmt: skip
    columns = ["target", "source", "model", "family", "batch_size", "verdict", "intensity_eager", "intensity_max",
               "ridge_flop_per_byte"]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[columns]


# Measured memory beside the estimate.


def memory_check(machines: Iterable[store.Measured] | None = None) -> pd.DataFrame:
    """Measured peak memory of inference beside the estimate, where a machine has measured it.

    machine, device, model, batch_size, precision, peak_memory_byte (measured), estimate_byte, ratio. Peaks are those
    of an allocator; a process's resident set also holds libraries, so it is left out.
    """
    if machines is None:
        machines = [store.load(name) for name in store.machines()]
    rows = []
    for machine in machines:
        done = machine.outcomes
        done = done[done["peak_memory_byte"].notna() & (done["sweep"] == "inference") & (done["device"] != "cpu")]
        done = done[done["precision"].isin(list(workload.PRECISIONS)) & (done["memory_format"] == "contiguous")]
        for row in done[done["compile_mode"] == "eager"].itertuples():
            estimate = workload.count(row.model, row.batch_size, row.precision).peak_memory_byte
            rows.append({
                "machine": machine.name, "device": row.device, "model": row.model, "batch_size": row.batch_size,
                "precision": row.precision, "peak_memory_byte": float(row.peak_memory_byte), "estimate_byte": estimate,
                "ratio": float(row.peak_memory_byte) / estimate,
            })  # fmt: skip
    columns = ["machine", "device", "model", "batch_size", "precision", "peak_memory_byte", "estimate_byte", "ratio"]
    return pd.DataFrame(rows, columns=columns)


def memory_text(check: pd.DataFrame) -> Text:
    """How the estimate of memory compares with measured peaks, in a paragraph."""
    if check.empty:
        return Text(
            "No machine of this edition reports an allocator's peak, so the estimate stands unchecked here: "
            "measure on an accelerator and this paragraph compares the two."
        )
    quantiles = check["ratio"].quantile([0.0, 0.5, 1.0])
    worst = check.loc[(np.log(check["ratio"])).abs().idxmax()]
    return Text(
        f"Of {report.plural(len(check), 'inference case')} measured on an accelerator, the allocator's peak is "
        f"{report.significant(quantiles[0.5], 2)} times the estimate in the median, and between "
        f"{report.significant(quantiles[0.0], 2)} and {report.significant(quantiles[1.0], 2)} times. "
        f"The farthest is {worst['model']} at batch {worst['batch_size']} in {worst['precision']}: "
        f"{report.size(worst['peak_memory_byte'])} against {report.size(worst['estimate_byte'])}. Workspaces that "
        "kernels take for themselves and the allocator's rounding are not in the estimate."
    )


# Other counters.


def counters(rows: Sequence[Mapping]) -> pd.DataFrame:
    """GMAC of the forward pass by counter, one row per network, finished for display."""
    frame = pd.DataFrame(rows)
    totals = frame[(frame["pass"] == "forward") & (frame["operation"] == "total")]
    wide = totals.pivot(index="model", columns="counter", values="macs") / 1e9
    wide = wide.reindex(index=[name for name in models.MEASURED if name in wide.index])
    names = {"book": "This book", "torch": "torch", "fvcore": "fvcore", "torchinfo": "torchinfo",
             "metadata": "torchvision"}  # fmt: skip
    shown = pd.DataFrame({"Network": wide.index})
    for counter, title in names.items():
        shown[title] = [None if pd.isna(v) else f"{v:.3f}" for v in wide[counter]]
    return shown


_CAUSES = {
    ("fvcore", "scaled_dot_product_attention"): "does not know fused attention and leaves its products out",
    ("fvcore", "batch_norm"): "counts batch normalisation",
    ("fvcore", "layer_norm"): "counts layer normalisation",
    ("fvcore", "adaptive_avg_pool2d"): "counts average pooling",
    ("torchinfo", "Linear"): "multiplies a linear layer's parameters by the batch, not by the positions",
    ("torchinfo", "MultiheadAttention"): "sees no parameters in attention's products, nor its projections",
    ("torchinfo", "ShiftedWindowAttention"): "sees no parameters in attention's products, nor its projections",
    ("torchinfo", "Attention"): "sees no parameters in attention's products",
    ("torchinfo", "Embedding"): "counts a look-up as a product",
    ("torchinfo", "BatchNorm2d"): "counts normalisation's parameters",
    ("torchinfo", "LayerNorm"): "counts normalisation's parameters",
    ("torchinfo", "LayerNorm2d"): "counts normalisation's parameters",
    ("torchinfo", "Conv2d"): "counts biases",
    ("torch", "grouped convolution's weight gradient"): "multiplies the weight gradient by the number of groups",
    ("metadata", "rounding to three decimals"): "rounds to three decimals",
}


def causes(rows: Sequence[Mapping]) -> pd.DataFrame:
    """Why counters differ: one row per counter, pass and operation with its largest effect, finished for display."""
    frame = pd.DataFrame(rows)
    totals = frame[(frame["counter"] == "book") & (frame["operation"] == "total")]
    book = totals.set_index(["model", "pass"])["macs"]
    found = frame[frame["operation"] != "total"].copy()
    keys = zip(found["model"], found["pass"], strict=True)
    found["share"] = found["macs"] / [book[key] for key in keys]
    listed = []
    for (counter, which, operation), group in found.groupby(["counter", "pass", "operation"], sort=False):
        worst = group.loc[group["share"].abs().idxmax()]
        listed.append({
            "Counter": "torchvision" if counter == "metadata" else counter, "Pass": which, "Operation": operation,
            "What it does": _CAUSES.get((counter, operation), "counts it differently"), "Networks": len(group),
            "Largest effect": f"{_signed_percent(worst['share'])} of {worst['model']}",
            "size": abs(worst["share"]),
        })  # fmt: skip
    shown = pd.DataFrame(listed).sort_values("size", ascending=False)
    return shown.drop(columns="size").reset_index(drop=True)


def _signed_percent(share: float) -> str:
    if abs(share) < 1e-4:
        return "less than 0.01 %"
    return f"{'−' if share < 0 else '+'}{report.percent(abs(share))}"


# What the prose says.


def ridge_lines(*chosen: Mapping) -> dict[str, float]:
    """Ridge points in FLOP/byte by target."""
    return {target["target"]: float(target["ridge_flop_per_byte"]) for target in chosen}


def say(
    table: pd.DataFrame,
    targets_: pd.DataFrame,
    judged: pd.DataFrame,
    counter_rows: Sequence[Mapping],
    times: Sequence[Mapping],
) -> SimpleNamespace:
    """Every value and sentence that the chapter quotes, by name; each is a `report.Text`."""
    return SimpleNamespace(
        **_say_networks(table), **_say_intensity(table), **_say_targets(table, targets_, judged), **_say_layers(),
        **_say_counters(counter_rows), **_say_times(times),
        memory_check=memory_text(memory_check()),
    )  # fmt: skip


def _extremes(rows: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    return rows.loc[rows[column].idxmin()], rows.loc[rows[column].idxmax()]


def _say_networks(table: pd.DataFrame) -> dict[str, Text]:
    rows = at(table)
    few, many = _extremes(rows, "flop_per_input")
    small, large = _extremes(rows, "param_count")
    rows = rows.assign(
        reuse=rows["flop_per_input"] / rows["param_count"],
        activation_part=rows["activation_peak_byte"] / rows["param_byte"],
    )
    little, much = _extremes(rows, "reuse")
    above = rows[rows["activation_part"] > 1]
    trained = rows.dropna(subset=["training_peak_memory_byte"])
    growth = trained["training_peak_memory_byte"] / trained["peak_memory_byte"]
    backward = trained["backward_flop"] / trained["training_forward_flop"]
    uncounted = rows["uncounted_bytes_share"].max()
    return {
        "n_networks": report.number(len(rows)),
        "batch_size": report.number(BATCH_SIZE),
        "precision": Text(PRECISION),
        "fewest": Text(f"{few['model']} ({report.quantity(few['flop_per_input'], 'FLOP')})"),
        "most": Text(f"{many['model']} ({report.quantity(many['flop_per_input'], 'FLOP')})"),
        "flop_factor": report.number(many["flop_per_input"] / few["flop_per_input"], 2),
        "smallest": Text(f"{small['model']} ({report.number(small['param_count'])})"),
        "largest": Text(f"{large['model']} ({report.number(large['param_count'])})"),
        "param_factor": report.number(large["param_count"] / small["param_count"], 2),
        "least_reuse": Text(
            f"{little['model']} uses each parameter for {report.number(little['reuse'])} FLOPs per input"
        ),
        "most_reuse": Text(f"{much['model']} for {report.number(much['reuse'])}"),
        "activations_win": Text(
            f"{len(above)} of the {len(rows)} networks hold more in activations than in parameters"
        ),
        "training_growth": Text(
            f"between {report.significant(growth.min(), 2)} and {report.significant(growth.max(), 2)} times"
        ),
        "backward_ratio": Text(
            f"between {report.significant(backward.min(), 4)} and {report.significant(backward.max(), 4)} times"
        ),
        "uncounted": Text(
            "Every operation of these networks has a formula."
            if uncounted == 0
            else f"Operations without a formula move at most {report.percent(uncounted)} of a network's bytes."
        ),
        "alt_overview": Text(
            f"{len(rows)} networks ordered by FLOPs per input, from {few['model']} to {many['model']}: FLOPs, "
            "parameters, memory of parameters and activations, and the range of arithmetic intensity."
        ),
    }


def _say_intensity(table: pd.DataFrame) -> dict[str, Text]:
    one, many = at(table, 1).set_index("model"), at(table, max(BATCH_SIZES)).set_index("model")
    growth_max = many["intensity_max"] / one["intensity_max"]
    growth_eager = many["intensity_eager"] / one["intensity_eager"]
    stated = at(table).set_index("model")
    gap = stated["intensity_max"] / stated["intensity_eager"]
    half = at(table, BATCH_SIZE, "bf16").set_index("model")
    steady = growth_eager[growth_eager < 2]
    return {
        "growth_max_most": Text(f"{growth_max.idxmax()}, whose ceiling grows {report.times(growth_max.max())}"),
        "growth_max_least": Text(f"{growth_max.idxmin()} gains only {report.times(growth_max.min())}"),
        "growth_eager_median": report.times(growth_eager.median()),
        "n_steady": report.plural(len(steady), "network"),
        "steady_names": report.listing(steady.index)
        if len(steady) <= 6
        else Text(report.listing([*steady.index[:6], f"{len(steady) - 6} more"])),
        "gap_factor": report.number(gap.median(), 2),
        "gap_most": Text(f"{gap.idxmax()} ({report.times(gap.max())})"),
        "gap_least": Text(f"{gap.idxmin()} ({report.times(gap.min())})"),
        "half_gain": report.times((half["intensity_eager"] / stated["intensity_eager"]).median()),
        "largest_batch": report.number(max(BATCH_SIZES)),
        "decode_intensity": report.intensity(stated.loc["gpt2_decode", "intensity_max"]),
        "prefill_intensity": report.intensity(stated.loc["gpt2_prefill", "intensity_max"]),
        "decode_growth": report.times(growth_max["gpt2_decode"]),
        "alt_paths": Text(
            f"Small panels, one per network: the band between eager and minimum-traffic intensity from batch 1 to "
            f"{max(BATCH_SIZES)}. The upper edge rises with the batch; the lower is nearly flat for most networks."
        ),
    }


def _say_targets(table: pd.DataFrame, targets_: pd.DataFrame, judged: pd.DataFrame) -> dict[str, Text]:
    values: dict[str, Text] = {}
    for kind in ("CPU", "GPU"):
        target = at_hand(targets_, kind)
        found = ranges(table, target)
        tally = {name: int((found["verdict"] == name).sum()) for name in VERDICTS}
        key = kind.lower()
        values[f"{key}_name"] = Text(target["target"])
        values[f"{key}_basis"] = Text(
            "its measured, achievable ceilings" if target["source"] == "measured" else "its datasheet's peaks"
        )
        values[f"{key}_ridge"] = report.intensity(target["ridge_flop_per_byte"])
        values[f"{key}_tally"] = Text(
            f"{report.plural(tally['compute-bound'], 'network')} of {len(found)} compute-bound under either traffic "
            f"model, {tally['memory-bound']} memory-bound under either, and {tally['either']} one or the other, "
            "depending on how much is fused"
        )
        bound = found.loc[found["verdict"] == "memory-bound", "model"]
        values[f"{key}_memory_bound"] = report.listing(bound)
        values[f"alt_{key}"] = Text(
            f"Roofline of {target['target']}, ridge point {report.intensity(target['ridge_flop_per_byte'])}; "
            f"below it each network's range of intensity at batch {BATCH_SIZE}: "
            f"{tally['compute-bound']} lie wholly right of the ridge, {tally['memory-bound']} wholly left."
        )
    shares = judged.groupby(["target", "batch_size"])["verdict"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=list(VERDICTS), fill_value=0.0)
    always = judged.groupby("model")["verdict"].agg(lambda v: set(v))
    same = {name: [model for model, found in always.items() if found == {name}] for name in VERDICTS}
    eager_one = judged[judged["batch_size"] == 1]
    chosen = first_choice(chip_roofs(chips.load(), *domain(table, targets_)), at_hand(targets_, "GPU"))
    values |= {
        "verdict_largest": report.number(max(VERDICT_BATCH_SIZES)),
        "n_targets": report.number(len(targets_)),
        "always_memory": report.listing(same["memory-bound"]),
        "always_compute": report.listing(same["compute-bound"]),
        "batch_one_memory": report.percent((eager_one["verdict"] == "memory-bound").mean()),
        "batch_large_memory": report.percent(
            (judged.loc[judged["batch_size"] == max(VERDICT_BATCH_SIZES), "verdict"] == "memory-bound").mean()
        ),
        "batch_verdict": Text("Batching moves networks right" if _falls(judged) else "Batching changes few verdicts"),
        "hardest_target": Text(shares["memory-bound"].groupby("target").mean().idxmax()),
        "easiest_target": Text(shares["compute-bound"].groupby("target").mean().idxmax()),
        "any_chosen": Text(chosen),
        "alt_any": Text(f"Roofline of {chosen} and each network's range of intensity at batch {BATCH_SIZE}."),
        "alt_verdicts": Text(
            f"Table coloured by verdict: {judged['model'].nunique()} networks by {len(targets_)} targets at batch "
            f"sizes {report.listing(map(str, VERDICT_BATCH_SIZES))}."
        ),
    }
    return values


def _falls(judged: pd.DataFrame) -> bool:
    by_batch = judged.assign(bound=judged["verdict"] == "memory-bound").groupby("batch_size")["bound"].mean()
    return bool(by_batch.iloc[-1] < by_batch.iloc[0])


def _say_layers() -> dict[str, Text]:
    spread = layers()
    span = spread.groupby("model")["intensity"].agg(lambda v: v.max() / v.min())
    share = traffic(models.MEASURED)
    moved = (
        share[share["quantity"] == "bytes moved"].pivot(index="model", columns="layer_type", values="share").fillna(0)
    )
    counted = share[share["quantity"] == "model FLOPs"]["layer_type"].unique()
    idle = 1 - moved[[name for name in moved.columns if name in set(counted)]].sum(axis=1)
    types = spread.groupby("layer_type")["intensity"].median().sort_values()
    return {
        "spread_most": Text(f"{span.idxmax()} (a factor of {report.number(span.max(), 2)})"),
        "spread_least": Text(f"{span.idxmin()} (a factor of {report.number(span.min(), 2)})"),
        "lowest_type": Text(types.index[0]),
        "highest_type": Text(types.index[-1]),
        "idle_median": report.percent(idle.median()),
        "idle_most": Text(f"{idle.idxmax()} ({report.percent(idle.max())})"),
        "alt_layers": Text(
            f"Strips of the layers of {spread['model'].nunique()} networks over arithmetic intensity, coloured by "
            f"layer type: the layers of one network lie up to a factor of {report.number(span.max(), 2)} apart."
        ),
        "alt_traffic": Text(
            f"Stacked bars of FLOPs and bytes by layer type: in the median network layers without model FLOPs move "
            f"{report.percent(idle.median())} of the bytes."
        ),
    }


def _say_counters(rows: Sequence[Mapping]) -> dict[str, Text]:
    frame = pd.DataFrame(rows)
    report.claim("unexplained" not in set(frame["operation"]), "every difference between counters has a named cause")
    forward = frame[(frame["pass"] == "forward") & (frame["operation"] == "total")]
    wide = forward.pivot(index="model", columns="counter", values="macs")
    backward = frame[(frame["pass"] == "backward") & (frame["operation"] == "total")]
    back = backward.pivot(index="model", columns="counter", values="macs")
    over = back["torch"] / back["book"]
    low = wide["torchinfo"] / wide["book"]
    return {
        "torch_forward": report.claim(
            bool((wide["torch"] == wide["book"]).all()), "torch's own counter agrees with ours on every forward pass"
        ),
        "torch_backward": Text(f"{over.idxmax()}, to {report.times(over.max())} ours"),
        "torchinfo_least": Text(f"{low.idxmin()}, of which it sees {report.percent(low.min())}"),
        "metadata_difference": report.percent(((wide["metadata"] - wide["book"]).abs() / wide["book"]).max()),
    }


def _say_times(times: Sequence[Mapping]) -> dict[str, Text]:
    frame = pd.DataFrame(times)
    large = frame[frame["batch_size"] > 1].pivot(index="model", columns="counter", values="time_s")
    one = frame[(frame["batch_size"] == 1) & (frame["counter"] == "book")].set_index("model")["time_s"]
    ratio = large["book"] / one.reindex(large.index)
    everything = frame[frame["model"] == "all of torchvision"].iloc[0]
    return {
        "times_fvcore": Text(f"at least {report.times((large['fvcore'] / large['book']).min())}"),
        "times_torchinfo": Text(f"at least {report.times((large['torchinfo'] / large['book']).min())}"),
        "times_batch": report.number(int(frame["batch_size"].max())),
        "times_batch_effect": Text(f"{report.significant(ratio.median(), 2)} times as long"),
        "times_all": report.duration(everything["time_s"]),
        "times_all_memory": report.size(everything["peak_memory_byte"]),
    }


def load_counters() -> tuple[list[dict], list[dict]]:
    """The committed comparisons with other counters and their times."""
    return reconcile.load(), reconcile.load_times()
