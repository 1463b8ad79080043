"""Place the labels of points so that they cover neither each other nor the points, near and the same every time.

Each label chooses among positions on rings about its point; the choices are improved in turn until none gets better.
The cost counts what a reader minds: covered labels and points, leaders through labels, covered lines, and distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from src.theme import FONT

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
