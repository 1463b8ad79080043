"""The comparisons with other ways of measuring, and what the appendix says of them on made-up machines."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from src import schema, store, timing, trust
from src.figures import trust as figures
from src.findings import trust as findings
from tests import synthetic


def add_trust(folder, environment, *, triad=40e9, best=44e9, ours_s=0.1, other_s=0.1, layer=300e9):
    """Comparisons as `src.trust` would record them, with made-up outcomes."""
    base = {"environment": store.environment_id(environment), "started_at": synthetic.STARTED_AT}
    base |= {"case": "nothing", "round": 0}
    with store.appender(folder, "trust.jsonl") as out:
        for index in range(5):
            for subject, rate in ((trust.C_TRIAD, triad), ("triad", triad), ("update", best)):
                out.append(base | {"comparison": "bandwidth", "subject": subject, "index": index,
                                   "latency_s": 1e9 / rate, "bytes_moved": 1e9})  # fmt: skip
            for subject, seconds, elapsed_s in ((trust.OUR_TIMER, ours_s, 1.0), (trust.OTHER_TIMER, other_s, 2.0)):
                row = base | {"subject": subject, "case": "net, batch 1", "round": index, "index": 0}
                out.append(row | {"comparison": "timer", "latency_s": seconds})
                out.append(row | {"comparison": "stopping", "latency_s": seconds, "elapsed_s": elapsed_s})
            out.append(base | {"comparison": "operation", "subject": "linear", "case": "linear 1x1 to 1",
                               "index": index, "latency_s": 1e9 / layer, "flop": 1e9})  # fmt: skip
            for subject, seconds in (("timing loop", 60e-9), ("timeit", 50e-9), ("clock", 80e-9)):
                out.append(base | {"comparison": "overhead", "subject": subject, "index": index,
                                   "latency_s": seconds})  # fmt: skip


def machine(root, *, second=None, **outcomes):
    """A machine folder with comparisons and, if ``second`` gives its factor, a second run."""
    environment = synthetic.environment()
    latency_s = {
        case: 0.01 * (number + 1) for number, case in enumerate(synthetic.cases(["a", "b", "c", "d"], (1, 64)))
    }  # fmt: skip
    folder = synthetic.write(root, environment, latency_s)
    add_trust(folder, environment, **outcomes)
    if second is not None:
        again = {case: second(number, value) for number, (case, value) in enumerate(latency_s.items())}
        written = synthetic.write(root / "second", environment, again, seed=1)
        shutil.move(written, folder / "repeat")
        shutil.rmtree(root / "second")
    return folder


def test_agreement_is_said_with_its_numbers(tmp_path):
    machine(tmp_path, second=lambda number, value: value)
    say = findings.find(tmp_path).say
    # 44 of 40 GB/s are 110 %; a layer at 300 of the made-up ceiling's 400 GFLOP/s is 75 %.
    assert "110 % of it, as required" in say.bandwidth.replace("\u00a0", " ")
    assert "indistinguishable from the C program's" in say.bandwidth
    assert "75.0 % of the ceiling" in say.operations.replace("\u00a0", " ")
    assert "which therefore stands" in say.operations
    assert "agree within 3.0 %" in say.timers.replace("\u00a0", " ")
    assert "takes 1.00 s and the other 2.00 s" in say.timers.replace("\u00a0", " ")
    assert "is 1.0000" in say.repeats and ", as required" in say.repeats
    assert "a difference of 10.0 ns" in say.overhead.replace("\u00a0", " ")


def test_disagreement_is_said_too(tmp_path):
    machine(tmp_path, best=30e9, triad=40e9, ours_s=0.12, layer=500e9, second=lambda number, value: 0.1 - value)
    found = findings.find(tmp_path)
    # The best of the book's kernels is then its triad, at the C program's own rate.
    assert "triad (torch)" in found.say.bandwidth
    assert "the ceiling is set too low" in found.say.operations
    assert "differ by more than 3.0 % on net, batch 1" in found.say.timers.replace("\u00a0", " ")
    assert findings.rank_agreement(found.repeats) == pytest.approx(-1.0)  # the second run reverses the order
    assert "less than required" in found.say.repeats


def test_bandwidth_below_the_limit_is_said(tmp_path):
    environment = synthetic.environment()
    folder = synthetic.write(tmp_path, environment, {})
    name = store.environment_id(environment)
    with store.appender(folder, "trust.jsonl") as out:
        for subject, rate in ((trust.C_TRIAD, 40e9), ("update", 36e9)):
            out.append({"environment": name, "comparison": "bandwidth", "subject": subject, "case": "1", "round": 0,
                        "index": 0, "latency_s": 1e9 / rate, "bytes_moved": 1e9, "started_at": 1.7e9})  # fmt: skip
    assert "90 % of it, less than required" in findings.find(tmp_path).say.bandwidth.replace("\u00a0", " ")


def test_what_was_not_compared_is_said_and_still_drawn(tmp_path):
    synthetic.write(tmp_path, synthetic.environment(), dict.fromkeys(synthetic.cases(["a"]), 0.1))
    for root in (tmp_path, tmp_path / "nobody"):
        found = findings.find(root)
        assert "not been run" in found.say.bandwidth
        assert "not been run" in found.say.timers
        assert "No second run" in found.say.repeats
        assert all(getattr(found.say, name) for name in vars(found.say) if name != "accelerator")
        for chart in charts(found):
            chart.to_dict()


def charts(found):
    return [figures.bandwidth(found.bandwidth), figures.timers(found.timers, 0.03), figures.repeats(found.repeats),
            figures.drift(found.drift, 0.05)]  # fmt: skip


def test_figures_hold_every_row(tmp_path):
    machine(tmp_path, second=lambda number, value: value * 1.01)
    found = findings.find(tmp_path)
    drawn = [sum(len(rows) for rows in chart.to_dict()["datasets"].values()) for chart in charts(found)]
    assert drawn == [3, 1, 8, 3]  # kernels, cases of the timers, cases measured twice, reference timings


def test_a_second_run_in_another_environment_is_not_compared(tmp_path):
    folder = machine(tmp_path)
    other = synthetic.environment(threads=1)
    written = synthetic.write(tmp_path / "second", other, dict.fromkeys(synthetic.cases(["a"]), 0.1))
    shutil.move(written, folder / "repeat")
    assert findings.find(tmp_path).repeats.empty


def test_pairs_of_calls_take_turns_in_who_begins(tmp_path):
    began = []
    with store.appender(tmp_path, "trust.jsonl") as out:
        run = trust._Run("e", "cpu", out, print)
        add = run.add
        run.add = lambda *arguments, **more: (began.append(arguments[1]), add(*arguments, **more))
        trust._call_by_call(run, "nothing", lambda: None, timing.CpuClock(), 1)
    assert began[:4] == [trust.OUR_TIMER, trust.OTHER_TIMER, trust.OTHER_TIMER, trust.OUR_TIMER]
    assert began.count(trust.OUR_TIMER) == began.count(trust.OTHER_TIMER) >= trust.TIMER_PAIRS[0]
    rows, faults = store.read_rows(tmp_path / "trust.jsonl", schema.TRUST)
    assert faults == [] and all(row["latency_s"] < 0.01 for row in rows)


def test_pairs_are_added_until_the_ratio_is_known_well_enough(tmp_path):
    steady = [{"comparison": "timer", "case": "steady", "round": turn, "subject": subject, "latency_s": 1.0}
              for turn in range(60) for subject in (trust.OUR_TIMER, trust.OTHER_TIMER)]  # fmt: skip
    # Half of the calls take twice as long: the median of 60 lies anywhere between.
    wild = [row | {"case": "wild", "latency_s": 1.0 + row["round"] % 2} for row in steady]
    with store.appender(tmp_path, "trust.jsonl") as out:
        run = trust._Run("e", "cpu", out, print)
        run.take_in([*steady, *wild, wild[0] | {"round": 60}])
        assert [len(pairs) for pairs in run.pairs.values()] == [60, 60]  # a pair cut in half does not count
        assert trust._is_settled(run.pairs["steady"])
        assert not trust._is_settled(run.pairs["steady"][: trust.TIMER_PAIRS[0] - 1])
        trust._call_by_call(run, "steady", lambda: None, timing.CpuClock(), 1)
        assert len(run.pairs["steady"]) == 60


def test_the_ratio_of_medians_keeps_pairs_together():
    # The second is always 2 % slower, whatever both do from call to call.
    ours = np.random.default_rng(1).uniform(1.0, 3.0, 80)
    value, low, high = trust.ratio_of_medians(ours, ours * 1.02)
    assert (value, low, high) == pytest.approx((1 / 1.02,) * 3)


def test_the_c_program_streams_and_says_how_long_it_took(tmp_path):
    program = trust.build_triad(tmp_path)
    if program is None:
        pytest.skip("needs a C compiler with OpenMP")
    seconds = trust.run_triad(program, 2**16, 4, 1)
    assert len(seconds) == 4
    assert all(0 < value < 1 for value in seconds)
    assert subprocess.run([program, "0", "1"], capture_output=True).returncode == 1
    assert subprocess.run([program], capture_output=True).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "size", "taps"),
    [
        # One row of 4: a kernel of 3 with padding 1 meets 2 + 3 + 3 + 2 = 10 of 12 taps, in each direction.
        ({"kernel_size": 3, "padding": 1}, (4, 4), 10 * 10),
        ({"kernel_size": 3}, (4, 4), 6 * 6),  # two places of three taps
        ({"kernel_size": 1, "stride": 2}, (4, 4), 2 * 2),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (4, 4), 5 * 5),  # at 0: 2 taps; at 2: 3
        ({"kernel_size": (1, 3), "padding": (0, 2), "dilation": 2}, (1, 4), 1 * 8),  # 2 + 2 + 2 + 2
    ],
)
def test_multiplications_by_padding_are_not_counted(arguments, size, taps):
    import torch

    module = torch.nn.Conv2d(6, 4, groups=2, bias=False, **arguments)
    output = module(torch.zeros(5, 6, *size))
    # 5 images x 4 output channels x 3 input channels each, a multiply and an add.
    assert trust.convolution_flop(module, size, output) == 2 * 5 * 4 * 3 * taps


def test_both_timers_find_the_same_median():
    def call():
        return sum(range(20_000))

    ours, width, _ = trust.time_with_ours(call, timing.CpuClock())
    other, _, _ = trust.time_with_other(call, 1)
    assert 0.2 < ours / other < 5  # loose, for machines under load; the data hold the real comparison
    assert width < 1


def test_only_what_is_missing_is_compared(tmp_path):
    from src import command

    folder = machine(tmp_path)
    measuring = command.Measuring(folder, "cpu", synthetic.environment(), print)
    assert trust.missing(measuring) == []
    fresh = command.Measuring(tmp_path / "fresh", "cpu", synthetic.environment(), print)
    assert trust.missing(fresh) == ["overhead", "bandwidth", "operations", "timers", "stopping"]


def test_overhead_is_recorded_and_a_second_run_adds_rounds(tmp_path):
    from src import command

    measuring = command.Measuring(tmp_path, "cpu", synthetic.environment(), lambda line: None)
    for _ in range(2):
        with store.lock(tmp_path):
            trust.compare(measuring, ["overhead"])
    rows, faults = store.read_rows(tmp_path / "trust.jsonl", schema.TRUST)
    assert faults == []
    rounds = {row["round"] for row in rows if row["subject"] == "clock"}
    assert rounds == set(range(10))
    loop = [row["latency_s"] for row in rows if row["subject"] == "timing loop"]
    assert all(0 < value < 1e-4 for value in loop)


def test_an_unknown_comparison_ends_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as exit_:
        trust.main(["guess"])
    assert exit_.value.code == 2
    assert "no comparison 'guess'" in capsys.readouterr().err
