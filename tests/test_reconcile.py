"""Other counters: every difference has a cause, and the committed tables are those that the code gives."""

from __future__ import annotations

import pytest

from src import models, reconcile, schema, workload

ROWS = reconcile.load()
TIMES = reconcile.load_times()


def test_every_measured_network_is_compared():
    assert list(dict.fromkeys(row["model"] for row in ROWS)) == list(models.MEASURED)


@pytest.mark.parametrize("name", models.MEASURED)
def test_named_causes_add_up_to_each_counter_s_difference(name):
    rows = [row for row in ROWS if row["model"] == name]
    totals = {(row["counter"], row["pass"]): row["macs"] for row in rows if row["operation"] == "total"}
    for (counter, which), total in totals.items():
        parts = [row for row in rows if (row["counter"], row["pass"]) == (counter, which)]
        assert sum(row["macs"] for row in parts if row["operation"] != "total") == total - totals["book", which]
        assert "unexplained" not in {row["operation"] for row in parts}


@pytest.mark.parametrize("name", models.MEASURED)
def test_committed_totals_are_those_counted_now(name):
    network = models.get(name)
    committed = {
        row["pass"]: row["macs"]
        for row in ROWS
        if (row["model"], row["counter"], row["operation"]) == (name, "book", "total")
    }
    assert committed["forward"] == workload.count(name).macs
    if network.trainable:
        training = workload.count(name, network.minimum_training_batch, backward=True)
        assert committed["backward"] == training.backward_flop // 2


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x1_0"])
def test_committed_rows_are_those_of_a_run_now(name):
    assert reconcile.reconcile(name) == [row for row in ROWS if row["model"] == name]


def test_counting_keeps_its_promises_of_speed():
    large = {
        (row["model"], row["counter"]): row["time_s"] for row in TIMES if row["batch_size"] == reconcile.TIMED_BATCH
    }
    one = {row["model"]: row["time_s"] for row in TIMES if (row["counter"], row["batch_size"]) == ("book", 1)}
    names = {model for model, _ in large}
    assert names == set(reconcile.TIMED)
    for name in names:
        assert large[name, "fvcore"] >= 5 * large[name, "book"]
        assert large[name, "book"] <= 2 * one[name]  # timings of milliseconds on a shared machine
    (everything,) = [row for row in TIMES if row["model"] == "all of torchvision"]
    assert everything["peak_memory_byte"] <= 1e9


def test_all_of_torchvision_is_counted_within_half_a_minute():
    (everything,) = [row for row in TIMES if row["model"] == "all of torchvision"]
    assert everything["time_s"] <= 30


def test_tables_follow_their_schema(tmp_path):
    path = tmp_path / "counters.csv"
    reconcile.write(path, schema.COUNTERS, ROWS)
    assert path.read_text() == schema.COUNTERS_PATH.read_text()


def test_unknown_names_exit_2(capsys):
    with pytest.raises(SystemExit) as caught:
        reconcile.main(["resnet51"])
    assert caught.value.code == 2 and "did you mean resnet50" in capsys.readouterr().err
