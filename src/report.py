"""Numbers formatted for prose, and the guards on what prose claims.

Every number that a chapter quotes passes through here as a named value, so that it is recomputed with the data. A
comparative word comes from `compare` or `choose`; a sentence that only one outcome allows is protected by `claim`,
which stops the render when the data say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
_SPACE = "\u00a0"  # a number and its unit never part at a line's end


class ClaimError(AssertionError):
    """A sentence whose condition the data do not meet."""


class Text(str):
    """A piece of prose that Jupyter shows as Markdown rather than as a quoted string."""

    def _repr_markdown_(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Estimate:
    """A value with the interval that its samples support: ``low <= value <= high``, in SI base units."""

    value: float
    low: float
    high: float

    def overlaps(self, other: Estimate) -> bool:
        return self.low <= other.high and other.low <= self.high


def significant(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, without an exponent and with thin grouping: 1234567 -> "1 230 000"."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    decimals = max(digits - 1 - exponent, 0)
    return f"{round(value, digits - 1 - exponent):,.{decimals}f}".replace(",", "\u202f")


def quantity(value: float, unit: str, digits: int = 3) -> Text:
    """A value in an SI base unit with the prefix that fits: (989.4e12, "FLOP/s") -> "989 TFLOP/s"."""
    if value == 0:
        return Text(f"0{_SPACE}{unit}")
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = min(max(3 * math.floor(math.log10(abs(rounded)) / 3), min(_PREFIXES)), max(_PREFIXES))
    return Text(f"{significant(value / 10.0**exponent, digits)}{_SPACE}{_PREFIXES[exponent]}{unit}")


def flop_rate(value: float, precision: str = "") -> Text:
    """FLOP/s with its prefix; OP/s where the precision is an integer format."""
    return quantity(value, "OP/s" if precision.startswith("int") else "FLOP/s")


def bandwidth(value: float) -> Text:
    """byte/s with its decimal prefix: 4.8e12 -> "4.80 TB/s"."""
    return quantity(value, "B/s")


def size(value: float) -> Text:
    """Bytes with a decimal prefix."""
    return quantity(value, "B")


def duration(value: float) -> Text:
    """Seconds with the prefix that fits."""
    return quantity(value, "s")


def intensity(value: float) -> Text:
    """Arithmetic intensity or balance in FLOP per byte."""
    return Text(f"{significant(value)}{_SPACE}FLOP/B")


def number(value: float, digits: int = 3) -> Text:
    """A pure number: small whole ones as they are, large ones with a word: 11689512 -> "11.7 million"."""
    for scale, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= scale:
            return Text(f"{significant(value / scale, digits)}{_SPACE}{word}")
    if float(value).is_integer():
        return Text(f"{int(value):,}".replace(",", "\u202f"))
    return Text(significant(value, digits))


def percent(fraction: float, digits: int = 2) -> Text:
    """A fraction as a percentage: 0.8123 -> "81 %". 99.6 % and above keep a decimal, so that 100 % means all."""
    if 0.995 <= fraction < 1:
        return Text(f"{math.floor(fraction * 1000) / 10:.1f}{_SPACE}%")
    return Text(f"{significant(100 * fraction, digits)}{_SPACE}%")


def times(ratio: float, digits: int = 2) -> Text:
    """A ratio in words: 3.21 -> "3.2 times"."""
    return Text(f"{significant(ratio, digits)} times")


def estimate(value: Estimate, unit: str = "s") -> Text:
    """A median with its interval: "12.3 ms [12.1 ms, 12.6 ms]"."""
    return Text(f"{quantity(value.value, unit)} [{quantity(value.low, unit)}, {quantity(value.high, unit)}]")


def listing(items: Iterable[str], conjunction: str = "and") -> Text:
    """Names as a sentence lists them: "a", "a and b", "a, b and c"; "none" if there are none."""
    names = [str(item) for item in items]
    if not names:
        return Text("none")
    if len(names) == 1:
        return Text(names[0])
    return Text(f"{', '.join(names[:-1])} {conjunction} {names[-1]}")


def plural(count: int, singular: str, plural_form: str | None = None) -> Text:
    """A count with its noun: (1, "chip") -> "1 chip", (3, "chip") -> "3 chips"."""
    return Text(f"{number(count)} {singular if count == 1 else plural_form or singular + 's'}")


def compare(left: Estimate, right: Estimate, words: Sequence[str] = ("lower than", "higher than")) -> Text:
    """The word for how two estimates compare; "indistinguishable from" where their intervals overlap.

    ``words`` are those for left < right and left > right.
    """
    if left.overlaps(right):
        return Text("indistinguishable from")
    return Text(words[0] if left.value < right.value else words[1])


def choose(condition: bool, true: str, false: str) -> Text:
    """The wording that the data allow."""
    return Text(true if condition else false)


def claim(condition: bool, sentence: str) -> Text:
    """The sentence, if the data bear it out. Raises `ClaimError`, which stops the render, if they do not."""
    if not condition:
        raise ClaimError(f"the data do not support: {sentence}")
    return Text(sentence)
