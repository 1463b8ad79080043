"""One command measures everything, in order, within one budget."""

from __future__ import annotations

import math

import pytest

from src import command, measure
from tests import synthetic


@pytest.fixture
def recorded(monkeypatch):
    """The parts that ran, with the seconds that each was given; none takes any time."""
    calls = []
    for name in measure.SHARES:
        monkeypatch.setitem(
            measure._PARTS, name, lambda run, budget_s, names, options, name=name: calls.append((name, budget_s))
        )
    return calls


def run(tmp_path):
    lines = []
    return command.Measuring(tmp_path, "cpu", synthetic.environment(), lines.append), lines


def test_parts_run_in_the_order_of_need(tmp_path, recorded):
    measuring, _ = run(tmp_path)
    measure.measure(measuring, list(measure.SHARES), math.inf, None)
    assert [name for name, _ in recorded] == ["ceilings", "inference", "training", "breakdown", "trust"]
    assert all(math.isinf(budget_s) for _, budget_s in recorded)


def test_what_a_part_leaves_goes_to_those_after_it(tmp_path, recorded):
    measuring, _ = run(tmp_path)
    measure.measure(measuring, ["ceilings", "inference"], 100.0, None)
    # 0.15 of 0.15 + 0.5 is 23 %; as it takes no time, all 100 s are left for the last part.
    assert [round(budget_s, 1) for _, budget_s in recorded] == [23.1, 100.0]


def test_a_spent_budget_starts_no_part(tmp_path, recorded):
    measuring, lines = run(tmp_path)
    measure.measure(measuring, ["ceilings", "inference"], 0.5, None)
    assert recorded == []
    assert lines == ["time is up before ceilings"]


def test_a_budget_too_short_for_the_comparisons_leaves_them(tmp_path):
    measuring, lines = run(tmp_path)
    measure.measure(measuring, ["trust"], 60.0, None)
    assert "left for another run" in lines[-1]


def test_wrong_arguments_end_in_a_sentence(capsys):
    for arguments in (["--models", "resnet51"], ["--budget", "-5m"], ["--parts", "lunch"]):
        with pytest.raises(SystemExit) as exit_:
            measure.main(arguments)
        assert exit_.value.code == 2
    assert "resnet5" in capsys.readouterr().err
