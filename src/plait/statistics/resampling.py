"""Bootstrap over documents: whole documents are resampled, since their tokens are not independent.

The interval is the estimate ± 1.96 bootstrap standard errors, documents resampled with replacement.
It is centred on the estimate on purpose: a resample repeats documents, so it holds fewer distinct
paths than the sample, and percentiles of an entropy would lie below the estimate itself.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from plait.statistics.estimate import Estimate

DRAWS = 100
BLOCKS = 256


class Resampler:
    """Weights of documents over bootstrap draws, and what a statistic becomes under them.

    Row 0 of every result is the sample itself, rows 1 … R its resamples, so that one vectorised
    function of totals gives the estimate and its spread together. Above 256 documents, they are
    dealt into 256 blocks (neighbours in the trace apart, domains kept apart) and blocks are
    resampled: memory stays bounded by 256 × the size of a statistic.

    Args:
        document_N: document index of each token.
        domain_N: domain index of each token (a document has one domain).
        draws: R.
        seed: of the resampling.
    """

    def __init__(
        self,
        document_N: npt.NDArray[np.integer],
        domain_N: npt.NDArray[np.integer],
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        self.tokens = len(document_N)
        if not self.tokens:
            raise ValueError("the trace holds no tokens: give it text")
        _, first, row_N = np.unique(document_N, return_index=True, return_inverse=True)
        self.documents = len(first)
        domain_D = np.asarray(domain_N)[first]
        block_D, domain_G = _deal(domain_D, BLOCKS)
        self.block_N = block_D[row_N].astype(np.int32)
        self.blocks = len(domain_G)
        self.domain_G = domain_G
        generator = np.random.default_rng(seed)
        if self.blocks > 1:
            resamples = generator.multinomial(
                self.blocks, np.full(self.blocks, 1 / self.blocks), size=draws
            )
        else:
            resamples = np.zeros((0, self.blocks), dtype=np.int64)
        self.weights_RG = np.vstack([np.ones((1, self.blocks), dtype=np.int64), resamples])

    def totals(self, statistic_GX: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Sum a statistic of blocks, (G, …), over the sample and each resample: (1+R, …)."""
        flat = statistic_GX.reshape(self.blocks, -1).astype(np.float64)
        return (self.weights_RG @ flat).reshape(-1, *statistic_GX.shape[1:])

    def per_block(self, values_N: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Sum one value per token within blocks, (G,)."""
        weights_N = values_N.astype(np.float64)
        return np.bincount(self.block_N, weights_N, self.blocks).astype(np.float64)

    def histograms(
        self, labels_N: npt.NDArray[np.integer], cells: int
    ) -> Iterator[npt.NDArray[np.float64]]:
        """Count tokens by label, (cells,), in the sample and then in each resample, in turn."""
        pairs = self.block_N.astype(np.int64) * cells + labels_N
        pair_P, count_P = np.unique(pairs, return_counts=True)
        block_P, label_P = np.divmod(pair_P, cells)
        for weight_G in self.weights_RG:
            weight_P = (weight_G[block_P] * count_P).astype(np.float64)
            yield np.bincount(label_P, weight_P, cells).astype(np.float64)

    def mean(
        self,
        values_N: npt.NDArray[np.generic],
        *,
        chance: float | None = None,
        ceiling: float | None = None,
        floor: float = 0.0,
    ) -> Estimate:
        """Measure the mean over tokens of one value per token."""
        totals_R = self.totals(self.per_block(values_N))
        means_R = totals_R / self.token_totals()
        return self.measure(means_R, chance=chance, ceiling=ceiling, floor=floor)

    def token_totals(self) -> npt.NDArray[np.float64]:
        """Tokens in the sample and each resample, (1+R,)."""
        return self.totals(np.bincount(self.block_N, minlength=self.blocks))

    def measure(
        self,
        values_R: npt.NDArray[np.floating],
        *,
        chance: float | None = None,
        ceiling: float | None = None,
        floor: float = 0.0,
    ) -> Estimate:
        """Turn the estimate (row 0) and its resamples into a figure with its interval.

        The interval ends at `floor` and `ceiling`, beyond which no value is possible.
        """
        value = float(values_R[0])
        spread = values_R[1:][np.isfinite(values_R[1:])]
        half = 1.96 * float(spread.std()) if len(spread) > 1 else None
        most = np.inf if ceiling is None else ceiling
        return Estimate(
            value=value,
            chance=chance,
            low=None if half is None else max(value - half, min(floor, value)),
            high=None if half is None else min(value + half, max(most, value)),
            ceiling=ceiling,
            n=self.documents,
        )


def _deal(
    domain_D: npt.NDArray[np.integer], limit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.integer]]:
    """Block of each document and domain of each block; at most about `limit` blocks."""
    if len(domain_D) <= limit:
        return np.arange(len(domain_D)), domain_D
    block_D = np.zeros(len(domain_D), dtype=np.int64)
    domains: list[int] = []
    for domain in np.unique(domain_D):
        members = np.flatnonzero(domain_D == domain)
        share = max(2, round(limit * len(members) / len(domain_D)))
        count = min(share, len(members))
        block_D[members] = len(domains) + np.arange(len(members)) % count
        domains.extend([int(domain)] * count)
    return block_D, np.asarray(domains)
