"""Numbers as they are shown, in the terminal and on pages.

With the typographic minus (−), a space before units, and figures enough to compare but no more.
"""

import math

from plait.statistics import Estimate


def number(value: float, digits: int = 3) -> str:
    """A number with fixed digits and a real minus sign."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference, its sign always shown unless it rounds to zero."""
    text = number(value, digits)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def interval(estimate: Estimate, digits: int = 3, sign: bool = False) -> str:
    """`low to high`, empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    show = signed if sign else number
    return f"{show(estimate.low, digits)} to {show(estimate.high, digits)}"


def reach(estimate: Estimate | None, digits: int = 3) -> str:
    """`±` half the interval, empty where there is none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"±{(estimate.high - estimate.low) / 2:.{digits}f}"


def percent(share: float) -> str:
    """A share as a percentage, one digit under ten."""
    return f"{100 * share:.{1 if abs(share) < 0.0995 else 0}f} %"


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float) -> str:
    """Time that work takes, in the unit that fits: 40 seconds, 6 minutes, 2.5 hours, 3 days."""
    for unit, length, until in (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 48)):
        count = seconds / length
        if count < until:
            text = f"{count:.1f}" if unit == "hour" and 1.05 < count < 9.95 else f"{count:.0f}"
            text = text.removesuffix(".0") if text != "0" else "1"
            return f"{text} {unit}" + ("" if text == "1" else "s")
    return f"{seconds / 86400:.0f} days"


def quantity(value: float) -> str:
    """A large count with its decimal prefix and three figures: 3.41 M, 12.5 B."""
    for scale, prefix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            scaled = value / scale
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f} {prefix}"
    return f"{value:.0f}"


def size(bytes_: float) -> str:
    """A number of bytes with its decimal prefix: 57.1 MB."""
    return quantity(bytes_).replace(" B", " G").replace(" k", " k") + (
        "B" if bytes_ >= 1e3 else " B"
    )


def memory(bytes_: float) -> str:
    """A number of bytes with its binary prefix and three figures: 57.1 MiB, 1.25 GiB."""
    for scale, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if bytes_ >= scale:
            scaled = bytes_ / scale
            return f"{scaled:.{max(0, 2 - int(math.log10(scaled)))}f} {unit}"
    return f"{bytes_:.0f} B"
