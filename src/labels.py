"""Where to write labels in a crowded chart: beside their points where there is room, and nowhere else.

`src.theme.place_labels` moves labels until all of them fit; this is for charts with more points than labels can fit.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from src.theme import FONT

_FONT_SIZE = 10  # CSS pixels, as the figures write labels


def positions(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    x_domain: tuple,
    y_domain: tuple,
    width: float,
    height: float,
    log_x: bool = True,
    first: Collection[str] = (),
    only: Collection[str] | None = None,
) -> pd.DataFrame:
    """Label positions beside the points where there is room for them; a label without room gets NaN.

    Chips that share a point share a label; those named ``first`` are placed first, then lone points before crowded
    ones. Returns a copy
    of the frame with ``label_x`` and ``label_y``, the label's centre in data units, and ``leader_x`` and ``leader_y``,
    where a thin rule from a label at some distance meets it (else NaN). Domains and sizes are those of the plot area,
    whose y axis is logarithmic. ``only`` names the chips to label, where not all; the others' points are kept clear.
    """
    placed = frame.assign(**dict.fromkeys(("label_x", "label_y", "leader_x", "leader_y"), np.nan))
    points = placed.drop_duplicates([x, y])
    if points.empty:
        return placed
    to_x = np.log10 if log_x else np.asarray
    across, up = to_x(np.array(x_domain, float)), np.log10(np.array(y_domain, float))
    px = _pixels(to_x(points[x].to_numpy(float)), across, width)
    py = height - _pixels(np.log10(points[y].to_numpy(float)), up, height)
    distance = np.hypot(px[:, None] - px, py[:, None] - py) + np.diag(np.full(len(px), np.inf))
    early = points["chip"].isin(list(first)).to_numpy()
    taken = [(a - 4, b - 4, a + 4, b + 4) for a, b in zip(px, py, strict=True)]
    wanted = [i for i, chip in enumerate(points["chip"]) if only is None or chip in only]
    for i in sorted(wanted, key=lambda i: (not early[i], -distance[i].min())):
        half = _text_width(points["label"].iloc[i]) / 2
        for dx, dy, far in _offsets(half):
            cx, cy = px[i] + dx, py[i] + dy
            box = (cx - half - 1, cy - 6, cx + half + 1, cy + 6)
            inside = box[0] >= 0 and box[1] >= -4 and box[2] <= width and box[3] <= height
            if inside and not any(_overlap(box, other) for j, other in enumerate(taken) if j != i):
                taken.append(box)
                index = points.index[i]
                placed.loc[index, "label_x"] = _data(cx, across, width, log_x)
                placed.loc[index, "label_y"] = _data(height - cy, up, height, True)
                if far:
                    near_x = min(max(px[i], box[0]), box[2])
                    placed.loc[index, "leader_x"] = _data(near_x, across, width, log_x)
                    placed.loc[index, "leader_y"] = _data(
                        height - cy + (6 if dy > 0 else -6 if dy < 0 else 0), up, height, True
                    )
                break
    return placed


def _offsets(half: float) -> list[tuple[float, float, bool]]:
    """Where a label of a half width may stand around its point, in pixels, the nearest first; True needs a leader."""
    near = [(half + 6, 0), (-half - 6, 0), (0, -10), (0, 10), (half, -10), (-half, -10), (half, 10), (-half, 10)]
    far = [
        (side * (half + reach), rise)
        for reach, rise in (
            (8, 20),
            (8, -20),
            (16, 30),
            (16, -30),
            (24, 42),
            (24, -42),
            (34, 12),
            (34, -12),
            (44, 56),
            (44, -56),
        )
        for side in (1, -1)
    ]
    return [(*offset, False) for offset in near] + [(*offset, True) for offset in far]


def _pixels(values: np.ndarray, domain: np.ndarray, size: float) -> np.ndarray:
    return (values - domain[0]) / (domain[1] - domain[0]) * size


def _data(pixel: float, domain: np.ndarray, size: float, log: bool) -> float:
    value = domain[0] + pixel / size * (domain[1] - domain[0])
    return float(10**value if log else value)


def _overlap(left: tuple, right: tuple) -> bool:
    return left[0] < right[2] and right[0] < left[2] and left[1] < right[3] and right[1] < left[3]


def _text_width(text: str) -> float:
    """Width in pixels of a label in the book's font, from the font's own advances."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=_FONT_SIZE, prop=FontProperties(family=FONT)).get_extents().width + 2
