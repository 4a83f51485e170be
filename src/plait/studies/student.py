"""Student's t distribution for whole degrees of freedom, without a statistics package.

For whole degrees of freedom the probability is a finite trigonometric sum (Abramowitz & Stegun
26.7.3 and 26.7.4), so no continued fraction and no tolerance is needed.
"""

import math


def two_sided_p(t: float, degrees: int) -> float:
    """P(abs T ≥ abs t) for T with `degrees` degrees of freedom."""
    return max(0.0, 1.0 - _central(math.atan2(abs(t), math.sqrt(degrees)), degrees))


def upper_tail(t: float, degrees: int) -> float:
    """P(T ≥ t) for T with `degrees` degrees of freedom."""
    half = two_sided_p(t, degrees) / 2
    return half if t >= 0 else 1.0 - half


def quantile(probability: float, degrees: int) -> float:
    """The t with P(T ≤ t) = `probability`, for a probability strictly between 0 and 1."""
    if not 0.0 < probability < 1.0:
        raise ValueError(f"a quantile needs a probability between 0 and 1, not {probability}")
    central = abs(2 * probability - 1)
    low, high = 0.0, math.pi / 2
    for _ in range(100):  # bisection in the angle: there the whole distribution is finite
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, degrees) < central else (low, middle)
    return math.copysign(math.sqrt(degrees) * math.tan((low + high) / 2), probability - 0.5)


def _central(angle: float, degrees: int) -> float:
    """P(abs T < √degrees · tan(angle))."""
    if degrees < 1:
        raise ValueError(f"Student's t needs at least 1 degree of freedom, not {degrees}")
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(1 + odd, degrees - 2 + odd, 2):
        term *= cosine * cosine * k / (k + 1)
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
