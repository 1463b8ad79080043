"""The one timing loop, on made-up clocks and a made-up stream."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from src import timing
from src.timing import Plan


class Now:
    """Host time that only calls move forward."""

    def __init__(self):
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


class HostClock:
    """A CPU clock over made-up time."""

    is_asynchronous = False
    cost_s = 1e-6

    def __init__(self, now: Now):
        self.now = now

    def mark(self) -> float:
        return self.now.s

    def synchronise(self) -> None:
        pass

    def elapsed_s(self, start: float, end: float) -> float:
        return end - start


def calls(now: Now, durations):
    """A call that takes the given durations in turn, the last for ever."""
    left = list(durations)

    def call() -> None:
        now.s += left.pop(0) if len(left) > 1 else left[0]

    return call


def run(durations, plan=None, **keywords):
    now = Now()
    return timing.sample(calls(now, durations), HostClock(now), plan or Plan(), now=now, **keywords)


def test_a_steady_call_stops_at_the_minimum_of_samples():
    found = run([1.0])
    assert (found.status, found.stop_reason, len(found.kept)) == ("ok", "interval", 5)
    assert (found.median_s, found.low_s, found.high_s) == (1.0, 1.0, 1.0)


def test_warm_up_ends_when_samples_stop_getting_faster():
    # 4, 2, 1 get faster each time; the next 1 does not, and ends it: four warm-ups.
    found = run([4.0, 2.0, 1.0, 1.0, 1.0], Plan(budget_s=100))
    assert [taken.is_warmup for taken in found.samples] == [True] * 4 + [False] * 5
    assert found.median_s == 1.0


def test_warm_up_takes_no_more_than_its_share_of_the_budget():
    # 0.3 of 20 s is 6 s: 5 s have passed after the first call, another would reach 9.
    found = run([5.0, 4.0, 3.0, 2.0, 1.0], Plan(budget_s=20))
    assert [taken.is_warmup for taken in found.samples][:2] == [True, False]


def test_a_first_call_of_ten_seconds_is_kept():
    found = run([12.0], Plan(budget_s=30, patience_s=30))
    assert [taken.is_warmup for taken in found.samples] == [False, False]  # a third would end at 36 s
    assert (found.status, found.stop_reason) == ("too_few", "budget")


def test_a_first_call_that_spends_the_budget_is_the_only_one():
    found = run([50.0], Plan(budget_s=20))
    assert [taken.total_s for taken in found.kept] == [50.0]
    assert (found.status, found.stop_reason) == ("too_few", "budget")


def test_patience_lets_a_slow_call_reach_the_minimum():
    assert len(run([4.0], Plan(budget_s=10)).kept) == 1  # 4 s of warm-up, 4 s kept: a third call would end at 12 s
    found = run([4.0], Plan(budget_s=10, patience_s=60))
    assert (found.status, len(found.kept)) == ("ok", 5)


def test_a_noisy_call_spends_its_budget_and_says_so():
    noise = np.random.default_rng(1).uniform(0.05, 0.15, 2000)
    found = run(noise, Plan(budget_s=5.0, target=0.001))
    assert (found.status, found.stop_reason) == ("noisy", "budget")
    assert 4.8 < found.elapsed_s <= 5.0


def test_no_more_than_the_maximum_is_kept():
    noise = np.random.default_rng(1).uniform(0.05, 0.15, 2000)
    found = run(noise, Plan(budget_s=500.0, target=0.001, maximum=40))
    assert (found.stop_reason, len(found.kept)) == ("maximum", 40)


def test_noise_ends_when_the_interval_is_within_the_target():
    noise = np.random.default_rng(2).normal(0.1, 0.004, 2000)
    found = run(noise, Plan(budget_s=500.0))
    assert (found.status, found.stop_reason) == ("ok", "interval")
    totals = [taken.total_s for taken in found.kept]
    assert timing.relative_half_width(totals) <= 0.02
    assert 5 <= len(totals) < 60


def test_short_calls_are_repeated_until_the_clock_costs_under_one_percent():
    # The clock costs 1 us, a call 2 us: a sample must last 100 us, so 50 calls at least (1.2 times that are taken).
    found = run([2e-6])
    assert {taken.iterations for taken in found.kept} == {60}
    assert found.median_s == pytest.approx(2e-6, rel=1e-9)


def test_samples_are_numbered_on_from_those_of_an_earlier_visit():
    found = run([1.0], first_index=9)
    assert [taken.index for taken in found.samples] == [9, 10, 11, 12, 13, 14, 15]  # two warm-ups and five samples


def test_each_sample_is_recorded_before_the_next_is_taken():
    seen = []
    found = run([1.0], record=lambda taken: seen.append(taken.index))
    assert seen == [taken.index for taken in found.samples]


def test_what_a_call_raises_passes_through():
    def broken():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        timing.sample(broken, HostClock(Now()))


def test_the_interval_of_constant_values_is_that_value_and_of_none_an_error():
    assert timing.median_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        timing.median_interval([])
    assert timing.relative_half_width([1.0]) == math.inf


def test_a_gap_in_the_numbering_begins_another_visit():
    assert timing.visits([2, 3, 4, 7, 8, 11]).tolist() == [0, 0, 0, 1, 1, 2]
    assert timing.visits([]).tolist() == []


def test_resamples_draw_visits_and_then_samples_of_each():
    values, visits = np.array([1.0, 1.0, 1.0, 5.0, 5.0]), [0, 0, 0, 1, 1]
    drawn = timing.resample(visits, 500)
    # Two draws of a visit: both the first (6 samples), both the second (4), or one of each (5), which is 3 ones.
    counts = {(int((row >= 0).sum()), int((row >= 3).sum())) for row in drawn}
    assert counts == {(6, 0), (4, 4), (5, 2)}
    found = timing.medians(values, drawn)
    assert set(found) == {1.0, 5.0}
    assert (found == 5.0).mean() == pytest.approx(0.25, abs=0.06)  # both draws must hit the second
    assert timing.median_interval(values, visits) == (1.0, 5.0)


def test_the_interval_of_nested_samples_covers_where_the_plain_one_does_not():
    # Five visits whose level differs ten times as much as samples within one do: the true median is 0.
    random = np.random.default_rng(5)
    covered = {"plain": 0, "nested": 0}
    for _ in range(100):
        values = np.repeat(random.normal(0.0, 1.0, 5), 20) + random.normal(0.0, 0.1, 100)
        for name, visits in (("plain", None), ("nested", np.repeat(np.arange(5), 20))):
            low, high = timing.median_interval(values, visits, resamples=300)
            covered[name] += low <= 0 <= high
    assert covered["plain"] < 60
    assert covered["nested"] > 80


def test_the_interval_holds_the_true_median_about_as_often_as_it_claims():
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        low, high = timing.median_interval(random.exponential(1.0, 25), resamples=400)
        inside += low <= math.log(2) <= high  # the median of an exponential distribution
    assert 180 <= inside <= 199  # 95 % of 200 is 190


# A device that works behind the host's back


class Stream:
    """A made-up device: work is queued at once and done later, in order, and every step is written down."""

    def __init__(self):
        self.queue, self.log, self.device_s, self.host_s = [], [], 0.0, 0.0

    def launch(self, name: str, takes_s: float) -> None:
        self.log.append(f"launch {name}")
        self.queue.append((name, takes_s, None))

    def run_all(self) -> None:
        for name, takes_s, event in self.queue:
            self.device_s += takes_s
            if event is not None:
                event.at_s = self.device_s
            self.log.append(f"done {name}")
        self.queue.clear()

    # What timing asks of torch.cuda
    def synchronize(self) -> None:
        self.log.append("synchronise")
        self.run_all()

    def Event(self, enable_timing: bool):
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, stream: Stream):
        self.stream, self.at_s = stream, None

    def record(self) -> None:
        self.stream.log.append("record")
        self.stream.queue.append(("event", 0.0, self))

    def elapsed_time(self, other: Event) -> float:
        if self.at_s is None or other.at_s is None:
            raise RuntimeError("an event that the device has not reached has no time")
        return (other.at_s - self.at_s) * 1e3


def test_device_work_is_timed_between_events_and_waited_for_before_and_after():
    stream = Stream()
    stream.launch("earlier", 7.0)
    clock = timing.CudaClock(stream)
    latencies, host_s = timing.time_once({"call": lambda: stream.launch("call", 2.0)}, clock, iterations=3)
    assert latencies == {"call": 2.0}
    assert stream.log == [
        "launch earlier", "synchronise", "done earlier",  # the device is idle when timing begins
        "record", "launch call", "launch call", "launch call", "record",  # nothing waits in between
        "synchronise", "done event", "done call", "done call", "done call", "done event",
    ]  # fmt: skip
    assert 0 < host_s < 1


def test_the_steps_of_training_are_timed_apart_without_waiting_between_them():
    stream = Stream()
    steps = {name: (lambda name=name, s=s: stream.launch(name, s)) for name, s in (("f", 1.0), ("b", 2.0), ("o", 0.5))}
    latencies, _ = timing.time_once(steps, timing.CudaClock(stream))
    assert latencies == {"f": 1.0, "b": 2.0, "o": 0.5}
    queued = stream.log[: stream.log.index("done event")]
    assert queued == ["synchronise", "record", "launch f", "record", "launch b", "record", "launch o", "record",
                      "synchronise"]  # fmt: skip


def test_a_clock_that_forgets_to_wait_is_found_out():
    class Forgetful(timing.CudaClock):
        def synchronise(self) -> None:
            pass

    stream = Stream()
    with pytest.raises(RuntimeError, match="has not reached"):
        timing.time_once({"call": lambda: stream.launch("call", 2.0)}, Forgetful(stream))


def test_host_overhead_is_kept_for_devices_alone():
    stream = Stream()
    found = timing.sample(lambda: stream.launch("call", 0.5), timing.CudaClock(stream), Plan(budget_s=0.5))
    assert all(taken.host_latency_s < 0.1 and taken.latency_s["call"] == 0.5 for taken in found.samples)
    assert all(taken.host_latency_s is None for taken in run([1.0]).samples)


def test_several_steps_cannot_be_repeated_within_a_sample():
    with pytest.raises(ValueError, match="several steps"):
        timing.time_once({"a": lambda: None, "b": lambda: None}, HostClock(Now()), iterations=2)


def test_the_cpu_clock_measures_a_known_wait():
    found = timing.sample(lambda: time.sleep(0.01), timing.CpuClock(), Plan(budget_s=1.0))
    assert 0.01 <= found.median_s < 0.03
    assert 0 < timing.CpuClock().cost_s < 1e-4


def test_calls_in_turn_alternate():
    names = [name for name, _ in timing.sample_in_turn({"a": lambda: None, "b": lambda: None}, timing.CpuClock(), 3)]
    assert names == ["a", "b"] * 5  # two rounds of warm-up and three
