"""The whole numbers whose costs come nearest to wanted ones: exact, and without trying them all.

No cost falls where a number grows. So a box of numbers holds nothing better than what the costs at
its two outermost corners say, and boxes are halved, the most promising first, until the first one
in the queue is a single point.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

Point = tuple[int, ...]


def nearest(
    costs: Callable[[Point], Point],
    wanted: Point,
    domains: Sequence[Sequence[int]],
    start: Point,
    *,
    tolerance: float,
    within: float,
    possible: Callable[[Point, Point], bool],
) -> Point | None:
    """Return the point of the least residual and change; None where no point counts.

    The residual of a point is the largest |cost ÷ wanted − 1|, its change the sum over its numbers
    of |log(number ÷ start)|. What is least is residual ÷ tolerance + change: numbers may go far
    to meet a wanted cost, and not to meet it better than anybody asks.

    Args:
        costs: of a point, never falling where one of its numbers grows.
        wanted: costs, above 0.
        domains: the rising numbers that may stand in each place.
        start: numbers above 0.
        tolerance: the residual that weighs as much as one number that changes by a factor of e.
        within: points with a larger residual do not count.
        possible: whether there may be points in the box between two corners.
    """
    queue: list[tuple[float, Point, Point]] = []

    def add(low: Point, high: Point) -> None:
        """Put a box into the queue by the best that may be in it; corners are places in domains."""
        least, most = _at(domains, low), _at(domains, high)
        if not possible(least, most):
            return
        over = [cost / want - 1 for cost, want in zip(costs(least), wanted, strict=True)]
        under = [1 - cost / want for cost, want in zip(costs(most), wanted, strict=True)]
        residual = max(*over, *under, 0.0)
        if residual <= within:
            bounds = zip(least, most, start, strict=True)
            change = sum(abs(math.log(min(max(at, a), b) / at)) for a, b, at in bounds)
            heappush(queue, (residual / tolerance + change, low, high))

    add((0,) * len(start), tuple(len(domain) - 1 for domain in domains))
    while queue:
        _, low, high = heappop(queue)
        least, most = _at(domains, low), _at(domains, high)
        if low == high:
            return least
        # the place that spans most, halved at the geometric mean, since costs are products
        place = max(range(len(start)), key=lambda i: most[i] / least[i])
        mean = math.isqrt(least[place] * most[place])
        cut = bisect_right(domains[place], mean, low[place] + 1, high[place])
        add(low, (*high[:place], cut - 1, *high[place + 1 :]))
        add((*low[:place], cut, *low[place + 1 :]), high)
    return None


def _at(domains: Sequence[Sequence[int]], places: Point) -> Point:
    return tuple(domain[place] for domain, place in zip(domains, places, strict=True))
