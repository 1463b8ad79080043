"""Predictions and the split of measured time, against sums done by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from src import predict
from src.predict import COMPUTE, DISPATCH, LOST, MEMORY, REST, Hardware

OPERATIONS = pd.DataFrame(
    [("convolution", 1000.0, 6.0, 4.0, 2.0), ("activation", 0.0, 30.0, 10.0, 0.0), ("linear", 100.0, 15.0, 5.0, 9.0)],
    columns=["layer_type", "flop", "bytes_read", "bytes_written", "param_bytes"],
)
HOST = Hardware(100.0, predict.constant_bandwidth(10.0), overhead_s=0.5, overlaps=False)
DEVICE = Hardware(100.0, predict.constant_bandwidth(10.0), overhead_s=0.5, overlaps=True)
# Compute 10, 0 and 1 s; memory 1, 4 and 2 s: roofs 10 (compute-bound), 4 and 2 (memory-bound).
TIMES = predict.operation_times(OPERATIONS, HOST)


def split(table: pd.DataFrame) -> dict[str, float]:
    return table.groupby("cause")["time_s"].sum().to_dict()


def test_operation_takes_the_longer_of_computing_and_moving():
    assert TIMES["roof_s"].tolist() == [10.0, 4.0, 2.0]
    assert TIMES["is_compute_bound"].tolist() == [True, False, False]
    assert predict.components(TIMES) == {"compute_roof_s": 10.0, "memory_roof_s": 6.0, "operation_count": 3}


def test_parameters_come_from_where_all_of_them_fit():
    # 40 byte/s for sets of up to 20 bytes, 10 beyond. Both operations move 20 bytes, of which 5 are activations, at 40;
    # their parameters, 15 each, make 30 together and so come at 10: 5 / 40 + 15 / 10 = 1.625.
    hardware = Hardware(1e9, lambda size: np.where(np.asarray(size) <= 20, 40.0, 10.0), 0.0, False)
    operations = pd.DataFrame({"flop": [0.0] * 2, "bytes_read": [18.0] * 2, "bytes_written": [2.0] * 2,
                               "param_bytes": [15.0] * 2})  # fmt: skip
    assert predict.operation_times(operations, hardware)["memory_s"].tolist() == [1.625, 1.625]
    # Alone, one operation's parameters fit where it does: 20 / 40.
    assert predict.operation_times(operations[:1], hardware)["memory_s"].tolist() == [0.5]


def test_prediction_adds_dispatch_on_a_host_and_hides_it_on_a_device():
    parts = predict.components(TIMES)
    assert predict.latency_s(parts, HOST) == 17.5  # 10 + 6 + 3 x 0.5
    assert predict.latency_s(parts, DEVICE) == 16.0
    launch_bound = Hardware(100.0, DEVICE.bandwidth, overhead_s=10.0, overlaps=True)
    assert predict.latency_s(parts, launch_bound) == 30.0  # 3 x 10 > 16


def test_bandwidth_follows_the_working_set_and_never_falls_for_a_smaller_one():
    curve = pd.DataFrame({"working_set_byte": [1e3, 1e3, 1e4, 1e6], "bandwidth_byte_per_s": [5.0, 8.0, 40.0, 10.0]})
    bandwidth = predict.bandwidth_of_curve(curve)
    # The 8 of the smallest set is raised to the next set's 40. Halfway between 1e4 and 1e6 on the logarithmic axis:
    # sqrt(40 x 10) = 20.
    assert bandwidth([1.0, 1e3, 1e4, 1e5, 1e9]).tolist() == pytest.approx([40.0, 40.0, 40.0, 20.0, 10.0])
    with pytest.raises(ValueError):
        predict.bandwidth_of_curve(curve.iloc[:0])


def test_causes_add_up_to_the_measured_time():
    table = predict.decompose(20.0, TIMES, HOST)
    assert split(table) == {COMPUTE: 10.0, MEMORY: 6.0, DISPATCH: 1.5, LOST: 2.5, REST: 0.0}
    assert math.fsum(table["time_s"]) == 20.0 and not table.attrs["is_capped"]


def test_device_is_charged_only_for_dispatch_that_it_could_not_hide():
    slow = Hardware(100.0, DEVICE.bandwidth, overhead_s=6.0, overlaps=True)
    # 3 x 6 = 18 s of dispatch, of which the 16 s at the roof hide all but 2.
    assert split(predict.decompose(20.0, TIMES, slow)) == {
        COMPUTE: 10.0,
        MEMORY: 6.0,
        DISPATCH: 2.0,
        LOST: 2.0,
        REST: 0,
    }
    assert split(predict.decompose(20.0, TIMES, DEVICE))[DISPATCH] == 0.0


def test_losses_are_told_apart_by_layer_type_where_it_was_measured():
    measured = {"convolution": 12.5, "activation": 4.0, "linear": 3.0}
    table = predict.decompose(20.0, TIMES, HOST, measured)
    lost = table[table["cause"] == LOST].set_index("layer_type")["time_s"].to_dict()
    # convolution 12.5 - 10 - 0.5 = 2, linear 3 - 2 - 0.5 = 0.5, activation 4 - 4 - 0.5 < 0; 20 - 17.5 - 2.5 leaves 0.
    assert lost == {"convolution": 2.0, "linear": 0.5}
    assert split(table)[REST] == 0.0 and math.fsum(table["time_s"]) == 20.0


def test_losses_larger_than_what_is_left_are_scaled_to_it():
    table = predict.decompose(20.0, TIMES, HOST, {"convolution": 18.5, "linear": 4.5})
    lost = table[table["cause"] == LOST].set_index("layer_type")["time_s"].to_dict()
    assert lost == {"convolution": 2.0, "linear": 0.5}  # 8 and 2 scaled by 2.5 / 10
    table = predict.decompose(30.0, TIMES, HOST, {"convolution": 12.5})
    assert split(table) == {COMPUTE: 10.0, MEMORY: 6.0, DISPATCH: 1.5, LOST: 2.0, REST: 10.5}


def test_roof_longer_than_the_measured_time_is_capped_and_said():
    table = predict.decompose(12.0, TIMES, HOST)
    assert split(table) == {COMPUTE: 10.0, MEMORY: 2.0, DISPATCH: 0.0, LOST: 0.0, REST: 0.0}
    assert table.attrs["is_capped"]


def test_fit_recovers_the_coefficients_that_made_the_data():
    table = pd.DataFrame(
        {"model": list("abcd"), "compute_roof_s": [1.0, 2, 3, 5], "memory_roof_s": [2.0, 1, 5, 1],
         "operation_count": [10, 50, 20, 90]}
    )  # fmt: skip
    table["latency_s"] = 2 * table["compute_roof_s"] + 3 * table["memory_roof_s"] + 0.1 * table["operation_count"]
    assert predict.fit(table).tolist() == pytest.approx([2.0, 3.0, 0.1])
    assert predict.leave_one_out(table).tolist() == pytest.approx(table["latency_s"].tolist())


def test_held_out_network_has_no_part_in_its_own_prediction():
    table = pd.DataFrame({"model": ["a", "a", "b", "b"], "flop": [1.0, 2, 1, 2], "latency_s": [1.0, 2, 3, 6]})
    # Each network follows its own proportion, 1 and 3, and is predicted with the other's.
    assert predict.leave_one_out(table, ["flop"]).tolist() == pytest.approx([3.0, 6.0, 1.0, 2.0])
    one_network = table[table["model"] == "a"]
    assert predict.leave_one_out(one_network, ["flop"]).isna().all()


def test_error_factor_counts_both_directions_alike():
    assert predict.error_factor(pd.Series([2.0, 0.5, 1.0]), pd.Series([1.0] * 3)).tolist() == pytest.approx([2, 2, 1])
