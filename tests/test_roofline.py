"""Roofline mathematics against sums done by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src import roofline

PEAK, BANDWIDTH = 120e12, 2e12  # ridge: 120e12 / 2e12 = 60 FLOP/byte
POSITIVE = st.floats(1e-3, 1e18)


def test_arithmetic_intensity_of_a_square_matrix_product():
    # n = 1000 in fp32: 2 n^3 = 2e9 FLOP; three matrices of n^2 values of 4 bytes = 12e6 byte; 2e9 / 12e6 = 1000 / 6.
    assert roofline.arithmetic_intensity(2e9, 12e6) == 1000 / 6


def test_arithmetic_intensity_of_vector_addition():
    # One addition per element; two 4-byte reads and one 4-byte write: 1 / 12 FLOP/byte.
    assert roofline.arithmetic_intensity(1, 12) == 1 / 12


def test_no_work_has_no_intensity():
    assert roofline.arithmetic_intensity(0, 8) == 0


def test_ridge_point():
    assert roofline.ridge_point(PEAK, BANDWIDTH) == 60


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        (0, 0),
        (0.5, 1e12),  # 0.5 FLOP/byte x 2e12 byte/s
        (30, 60e12),  # half the ridge point reaches half the peak
        (60, 120e12),  # both parts meet at the ridge point
        (600, 120e12),  # beyond it the peak is flat
    ],
)
def test_attainable_follows_the_slope_and_then_the_peak(intensity, expected):
    assert roofline.attainable_flop_per_s(intensity, PEAK, BANDWIDTH) == expected


@pytest.mark.parametrize(
    ("flop", "bytes_moved", "expected"),
    [
        (240e12, 2e12, 2.0),  # computing 240/120 = 2 s, moving 2/2 = 1 s
        (120e12, 8e12, 4.0),  # computing 1 s, moving 8/2 = 4 s
        (0, 2e12, 1.0),  # a copy still takes its time
    ],
)
def test_minimum_latency_is_the_longer_of_computing_and_moving(flop, bytes_moved, expected):
    assert roofline.minimum_latency_s(flop, bytes_moved, PEAK, BANDWIDTH) == expected


def test_bound_changes_at_the_ridge_point():
    assert not roofline.is_compute_bound(59.9, PEAK, BANDWIDTH)
    assert roofline.is_compute_bound(60, PEAK, BANDWIDTH)


def test_arrays_broadcast():
    attainable = roofline.attainable_flop_per_s(np.array([[30.0], [600.0]]), np.array([PEAK, 60e12]), BANDWIDTH)
    # Rows are intensities, columns peaks: [30 x 2e12, min(60e12, 60e12)], [120e12, 60e12].
    assert attainable.tolist() == [[60e12, 60e12], [120e12, 60e12]]


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
def test_ceilings_must_be_positive(bad):
    with pytest.raises(ValueError, match="peak_flop_per_s must be positive"):
        roofline.attainable_flop_per_s(1, bad, BANDWIDTH)
    with pytest.raises(ValueError, match="bandwidth_byte_per_s must be positive"):
        roofline.ridge_point(PEAK, bad)
    with pytest.raises(ValueError, match="bytes_moved must be positive"):
        roofline.arithmetic_intensity(1, bad)
    with pytest.raises(ValueError, match="bandwidth_byte_per_s must be positive"):
        roofline.minimum_latency_s(1, 1, PEAK, [BANDWIDTH, bad])


@given(flop=POSITIVE, bytes_moved=POSITIVE, peak=POSITIVE, bandwidth=POSITIVE)
def test_latency_and_roof_say_the_same(flop, bytes_moved, peak, bandwidth):
    intensity = roofline.arithmetic_intensity(flop, bytes_moved)
    attainable = roofline.attainable_flop_per_s(intensity, peak, bandwidth)
    assert attainable <= peak
    assert flop / attainable == pytest.approx(roofline.minimum_latency_s(flop, bytes_moved, peak, bandwidth), rel=1e-9)
