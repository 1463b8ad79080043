"""Place the labels of points so that they cover neither each other nor the points, near and the same every time.

`place` finds room for every label; `positions` is for charts with more points than labels can fit, and leaves out
those without room.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from src.theme import FONT

_FONT_SIZE = 10  # CSS pixels, as the figures write labels
_GAPS = (2.0, 9.0, 18.0, 30.0, 45.0, 62.0, 82.0)
"""Pixels between a point's edge and the nearest edge of its label, ring by ring."""

_ANGLES = 16
_OUTSIDE, _LABEL, _POINT, _LEADER, _DOUBT, _LINE = 1e4, 60.0, 40.0, 25.0, 14.0, 8.0
_RESTARTS = 6


def place(
    frame: pd.DataFrame,
    x: str,
    y: str,
    label: str,
    *,
    x_domain: tuple[float, float],
    y_domain: tuple[float, float],
    width: float,
    height: float,
    font_size: float = 10,
    point_radius: float = 4.0,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
) -> pd.DataFrame:
    """A copy of the frame with each label's centre, ``label_x`` and ``label_y``, in data units on logarithmic axes.

    ``width`` and ``height`` are the plot area's in CSS pixels, ``font_size`` too; ``lines`` are polylines in data
    units that labels should rather not cover. ``leader_x`` and ``leader_y`` are where a rule from the point meets the
    label, and ``label_distance_px`` is the rule's length.
    """
    if frame.empty:
        return frame.assign(label_x=[], label_y=[], leader_x=[], leader_y=[], label_distance_px=[])
    to_pixels = _Pixels(x_domain, y_domain, width, height)
    points = np.column_stack([to_pixels.x(frame[x].to_numpy(float)), to_pixels.y(frame[y].to_numpy(float))])
    sizes = np.array([_size(str(text), font_size) for text in frame[label]])
    segments = np.array([
        (*to_pixels.point(*a), *to_pixels.point(*b)) for line in lines for a, b in pairwise(line)
    ]).reshape(-1, 4)  # fmt: skip
    candidates = [_candidates(point, size, point_radius) for point, size in zip(points, sizes, strict=True)]
    alone = [
        _own_cost(index, centres, points, sizes[index], point_radius, width, height, segments)
        for index, centres in enumerate(candidates)
    ]
    centres = _improve(points, sizes, candidates, alone)
    # A rule ends at the label's nearest edge, not in its middle.
    nearest = np.clip(points, centres - sizes / 2, centres + sizes / 2)
    return frame.assign(
        label_x=to_pixels.x_data(centres[:, 0]), label_y=to_pixels.y_data(centres[:, 1]),
        leader_x=to_pixels.x_data(nearest[:, 0]), leader_y=to_pixels.y_data(nearest[:, 1]),
        label_distance_px=np.hypot(*(nearest - points).T),
    )  # fmt: skip


class _Pixels:
    """Between data units on logarithmic axes and pixels from the plot area's top left."""

    def __init__(self, x_domain: tuple[float, float], y_domain: tuple[float, float], width: float, height: float):
        self._x0, self._x1 = map(math.log, x_domain)
        self._y0, self._y1 = map(math.log, y_domain)
        self._width, self._height = width, height

    def x(self, value):
        return (np.log(value) - self._x0) / (self._x1 - self._x0) * self._width

    def y(self, value):
        return (self._y1 - np.log(value)) / (self._y1 - self._y0) * self._height

    def point(self, x: float, y: float) -> tuple[float, float]:
        return float(self.x(x)), float(self.y(y))

    def x_data(self, pixel):
        return np.exp(self._x0 + pixel / self._width * (self._x1 - self._x0))

    def y_data(self, pixel):
        return np.exp(self._y1 - pixel / self._height * (self._y1 - self._y0))


def _size(text: str, font_size: float) -> tuple[float, float]:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(family=FONT, size=font_size), False)
    return width + 2.0, 1.15 * font_size


def _candidates(point: np.ndarray, size: np.ndarray, radius: float) -> np.ndarray:
    """Centres about a point, ring by ring, from the right anticlockwise."""
    angles = np.arange(_ANGLES) * 2 * math.pi / _ANGLES
    direction = np.column_stack([np.cos(angles), -np.sin(angles)])
    # From the centre of a box to its edge in each direction, so that a gap means the same on every side.
    with np.errstate(divide="ignore"):
        reach = np.min(size / 2 / np.abs(direction), axis=1)
    return np.concatenate([point + direction * (reach + radius + gap)[:, None] for gap in _GAPS])


def _own_cost(
    index: int,
    centres: np.ndarray,
    points: np.ndarray,
    size: np.ndarray,
    radius: float,
    width: float,
    height: float,
    segments: np.ndarray,
) -> np.ndarray:
    """What each candidate of a label costs whatever the other labels do."""
    low, high = centres - size / 2, centres + size / 2
    limits = np.array([width, height])
    outside = np.clip(-low, 0, None).sum(axis=1) + np.clip(high - limits, 0, None).sum(axis=1)
    nearest = np.clip(points[None], low[:, None] - 1, high[:, None] + 1)
    covered = (np.hypot(*np.moveaxis(nearest - points[None], -1, 0)) < radius).sum(axis=1)
    own = np.clip(points[index], low, high)
    distance = np.hypot(*(own - points[index]).T)
    others = np.delete(points, index, axis=0)
    # A leader that runs through another point says that it belongs to that one.
    through = _segment_distance(others[None], points[index][None, None], own[:, None]) < radius + 1
    # A label that stands closer to another point than to its own seems to be that one's.
    elsewhere = np.clip(others[None], low[:, None], high[:, None]) - others[None]
    doubtful = (np.hypot(*np.moveaxis(elsewhere, -1, 0)) < distance[:, None] + 1.5).sum(axis=1)
    cost = _OUTSIDE * (outside > 0) + _POINT * covered + _LEADER * through.sum(axis=1) + 0.35 * distance
    cost = cost + _DOUBT * doubtful
    for segment in segments:
        cost = cost + _LINE * _crosses(segment, low, high)
    return cost


def _segment_distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    length = np.maximum((along**2).sum(axis=-1), 1e-9)
    share = np.clip(((points - start) * along).sum(axis=-1) / length, 0, 1)
    return np.sqrt(((points - start - share[..., None] * along) ** 2).sum(axis=-1))


def _crosses(segments: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether segments (x0, y0, x1, y1) pass through boxes; broadcasts. Liang and Barsky's clipping."""
    start, end = segments[..., :2], segments[..., 2:]
    along = np.where(np.abs(end - start) < 1e-9, 1e-9, end - start)
    first, second = (low - start) / along, (high - start) / along
    enter = np.minimum(first, second).max(axis=-1)
    leave = np.maximum(first, second).min(axis=-1)
    return np.maximum(enter, 0) < np.minimum(leave, 1)


def _improve(
    points: np.ndarray, sizes: np.ndarray, candidates: Sequence[np.ndarray], alone: Sequence[np.ndarray]
) -> np.ndarray:
    """The cheapest set of centres found: from several orders, each label in turn takes its best place."""
    random = np.random.default_rng(0)
    best, best_cost = None, math.inf
    for restart in range(_RESTARTS):
        order = np.arange(len(points)) if restart == 0 else random.permutation(len(points))
        chosen = np.array([places[costs.argmin()] for places, costs in zip(candidates, alone, strict=True)])
        picked = np.array([costs.argmin() for costs in alone])
        for _ in range(25):
            changed = False
            for index in order:
                cost = alone[index] + _shared_cost(index, candidates[index], points, sizes, chosen)
                choice = int(cost.argmin())
                if cost[choice] < cost[picked[index]] - 1e-9:
                    picked[index], chosen[index], changed = choice, candidates[index][choice], True
            if not changed:
                break
        total = sum(
            alone[index][picked[index]] + 0.5 * _shared_cost(index, chosen[index][None], points, sizes, chosen)[0]
            for index in range(len(points))
        )
        if total < best_cost:
            best, best_cost = chosen.copy(), total
    return best


def _shared_cost(
    index: int, centres: np.ndarray, points: np.ndarray, sizes: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """What each candidate of a label costs for the places that the other labels have."""
    others = np.arange(len(points)) != index
    if not others.any():
        return np.zeros(len(centres))
    low, high = centres - sizes[index] / 2, centres + sizes[index] / 2
    other_low, other_high = chosen[others] - sizes[others] / 2, chosen[others] + sizes[others] / 2
    gap = np.maximum(low[:, None] - other_high[None], other_low[None] - high[:, None])
    overlap = (gap < 1.0).all(axis=-1).sum(axis=1)
    own_end = np.clip(points[index], low, high)
    own_leaders = np.concatenate([np.broadcast_to(points[index], own_end.shape), own_end], axis=1)
    other_end = np.clip(points[others], other_low, other_high)
    other_leaders = np.concatenate([points[others], other_end], axis=1)
    through_others = _crosses(own_leaders[:, None], other_low[None], other_high[None]).sum(axis=1)
    through_mine = _crosses(other_leaders[None], low[:, None], high[:, None]).sum(axis=1)
    crossed = _intersect(own_leaders[:, None], other_leaders[None]).sum(axis=1)
    return _LABEL * overlap + _LEADER * (through_others + through_mine + crossed)


def _intersect(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether segments cross; broadcasts."""

    def side(p, q, r):
        return (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])

    a0, a1, b0, b1 = a[..., :2], a[..., 2:], b[..., :2], b[..., 2:]
    return (side(a0, a1, b0) * side(a0, a1, b1) < 0) & (side(b0, b1, a0) * side(b0, b1, a1) < 0)


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
    ones. Returns a copy of the frame with ``label_x`` and ``label_y``, the label's centre in data units, and
    ``leader_x`` and ``leader_y``, where a thin rule from a label at some distance meets it (else NaN). Domains and
    sizes are those of the plot area, whose y axis is logarithmic. ``only`` names the chips to label, where not all; the
    others' points are kept clear.
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
        half = _size(str(points["label"].iloc[i]), _FONT_SIZE)[0] / 2
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
    rings = [(8, 20), (16, 30), (24, 42), (34, 12), (44, 56)]  # sideways beyond the label's edge, and up or down
    far = [(side * (half + reach), turn * rise) for reach, rise in rings for turn in (1, -1) for side in (1, -1)]
    return [(*offset, False) for offset in near] + [(*offset, True) for offset in far]


def _pixels(values: np.ndarray, domain: np.ndarray, size: float) -> np.ndarray:
    return (values - domain[0]) / (domain[1] - domain[0]) * size


def _data(pixel: float, domain: np.ndarray, size: float, log: bool) -> float:
    value = domain[0] + pixel / size * (domain[1] - domain[0])
    return float(10**value if log else value)


def _overlap(left: tuple, right: tuple) -> bool:
    return left[0] < right[2] and right[0] < left[2] and left[1] < right[3] and right[1] < left[3]
