"""Label placement: nothing overlaps where there is room, and the result never varies."""

import numpy as np
import pandas as pd

from src import labels

AREA = {"x_domain": (1.0, 1000.0), "y_domain": (1.0, 1000.0), "width": 600, "height": 300}


def boxes(placed: pd.DataFrame) -> np.ndarray:
    pixels = labels._Pixels(AREA["x_domain"], AREA["y_domain"], AREA["width"], AREA["height"])
    centres = np.column_stack([pixels.x(placed["label_x"]), pixels.y(placed["label_y"])])
    sizes = np.array([labels._size(text, 10) for text in placed["name"]])
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def crowd(n: int = 18) -> pd.DataFrame:
    random = np.random.default_rng(1)
    values = np.exp(random.uniform(1.5, 4.5, n))
    # Along a diagonal, as latencies against FLOPs are.
    return pd.DataFrame({"x": values, "y": values * np.exp(random.normal(0, 0.3, n)),
                         "name": [f"some_network_{i}" for i in range(n)]})  # fmt: skip


def test_eighteen_labels_neither_overlap_nor_leave_the_panel():
    found = boxes(labels.place(crowd(), "x", "y", "name", **AREA))
    for i, a in enumerate(found):
        assert a[0] >= -1e-6 and a[1] >= -1e-6 and a[2] <= 600 + 1e-6 and a[3] <= 300 + 1e-6
        for b in found[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_lone_label_stands_beside_its_point():
    placed = labels.place(crowd(1), "x", "y", "name", **AREA).iloc[0]
    # The nearest ring leaves 2 px between the label and the point, whose radius is 4 px.
    assert 4.0 < placed["label_distance_px"] <= 6.0
    assert placed["label_x"] > placed["x"]


def test_placement_is_the_same_every_time():
    first, second = (labels.place(crowd(), "x", "y", "name", **AREA) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_empty_frame_keeps_its_columns():
    assert "label_x" in labels.place(crowd(0), "x", "y", "name", **AREA)
