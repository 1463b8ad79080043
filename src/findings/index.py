"""The book on one page: each chapter's answer, in that chapter's own words."""

from __future__ import annotations

from types import SimpleNamespace

from src import chips, references, report
from src.findings import chips as chip_findings
from src.findings import latency, measured, training, utilisation, workloads
from src.report import Text


def say() -> SimpleNamespace:
    """Named sentences for the index, each put together from what a chapter says."""
    return SimpleNamespace(
        chips=_chips(),
        workloads=_workloads(),
        latency=_latency(),
        utilisation=_utilisation(),
        training=_training(),
        **_machines(),
    )


def _machines() -> dict[str, Text]:
    whole = measured.load()
    names = dict.fromkeys(one.hardware for one in whole.series)
    return {
        "machines": report.listing(names),
        "accelerator": measured.accelerator_sentence(whole),
    }


def _chips() -> Text:
    said = chip_findings.say(chips.load(), references.load())
    return Text(
        f"Of {said.n_chips} chips, the median one wants {said.ridge_median_fp32} at single precision on vector units. "
        f"At bf16 on matrix units it wants {said.ridge_median_bf16}, {said.ridge_ratio}. Work with less "
        f"reuse runs at the speed of memory. In single precision {said.gpu_cpu_peak} and {said.gpu_cpu_bandwidth}; "
        f"{said.gpu_cpu_balance}."
    )


def _workloads() -> Text:
    table, targets = workloads.counts(), workloads.targets()
    judged = workloads.verdicts(table, targets)
    said = workloads.say(table, targets, judged, *workloads.load_counters())
    return Text(
        f"{said.n_networks} networks span a factor of {said.flop_factor} in FLOPs per input and of {said.param_factor} "
        f"in parameters. Between perfect fusion and none, a network's intensity differs by a factor of "
        f"{said.gap_factor} in the median, so that software often decides which limit it meets. At batch "
        f"{said.batch_size}, on {said.cpu_name}: {said.cpu_tally}; on {said.gpu_name}: {said.gpu_tally}."
    )


def _latency() -> Text:
    said = latency.find().say
    return Text(f"{said.flop_takeaway} {said.correlation_verdict} {said.throughput_takeaway}")


def _utilisation() -> Text:
    said = utilisation.find().say
    return Text(f"{said.utilisation_takeaway} {said.causes_takeaway}")


def _training() -> Text:
    said = training.find().say
    return Text(f"{said.ratio_takeaway} {said.kinds_takeaway}")
