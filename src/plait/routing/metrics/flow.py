"""Path flow: the tokens that go from each expert of one depth to each expert of the next."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plait.routing.trace import Trace

OTHER = -1


@dataclass(frozen=True)
class Link:
    """Tokens that were at `source` and then at `target`: share of all, and of each domain."""

    row: int
    source: int
    target: int
    share: float
    share_D: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Flow:
    """The most used top-1 experts of each routed depth, by index, the rest as OTHER, last.

    `nodes[row]` are (expert, share of tokens); `links` those between row and row + 1.
    """

    nodes: tuple[tuple[tuple[int, float], ...], ...]
    links: tuple[Link, ...]


def flow(trace: Trace, top: int = 8) -> Flow:
    """Count top-1 experts and transitions, keeping the `top` most used experts of each depth."""
    tokens, domains = len(trace), len(trace.info.domains)
    domain_N = trace.domain_N.astype(np.int64)
    tokens_D = np.maximum(np.bincount(domain_N, minlength=domains), 1)
    places, nodes = [], []
    for row, experts in enumerate(trace.info.experts):
        counts_E = np.bincount(trace.top1_NL[:, row], minlength=experts)
        kept = np.sort(np.argsort(-counts_E, kind="stable")[:top])
        place_E = np.full(experts, len(kept), dtype=np.int64)
        place_E[kept] = np.arange(len(kept))
        places.append(place_E[trace.top1_NL[:, row]])
        rest = 1 - counts_E[kept].sum() / tokens
        shown = [(int(e), float(counts_E[e] / tokens)) for e in kept]
        nodes.append((*shown, (OTHER, float(rest))) if rest > 0 else tuple(shown))
    links = []
    width = top + 1
    for row in range(len(places) - 1):
        cell_N = (places[row] * width + places[row + 1]) * domains + domain_N
        counts = np.bincount(cell_N, minlength=width * width * domains)
        counts = counts.reshape(width, width, domains)
        for a, b in zip(*np.nonzero(counts.sum(axis=2)), strict=True):
            links.append(
                Link(
                    row=row,
                    source=nodes[row][a][0],
                    target=nodes[row + 1][b][0],
                    share=float(counts[a, b].sum() / tokens),
                    share_D=counts[a, b] / tokens_D,
                )
            )
    return Flow(tuple(nodes), tuple(links))
