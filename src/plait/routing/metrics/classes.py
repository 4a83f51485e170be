"""What paths are about: how far a path tells the class of its tokens, and which classes it holds.

Classes are those of `plait.routing.token_classes`. That paths gather tokens of a kind is shown by
example in PathMoE (arXiv 2603.18297); here it is a mutual information with its chance value.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from plait.evaluation.choices import entropy_of, label
from plait.routing.metrics.paths import mean_of
from plait.routing.metrics.specialisation import log_odds
from plait.routing.token_classes import CLASSES, OUTSIDE, TokenClasses
from plait.routing.trace import Trace
from plait.statistics import Estimate, Resampler
from plait.statistics.proportions import wilson

SHUFFLES = 20


@dataclass(frozen=True)
class ClassInformation:
    """I(path; class), plug-in, nats, beside its chance and less its chance.

    Chance is the mean over 20 permutations of the classes within each document, which keep what
    paths and classes every document has: many paths and few tokens give a plug-in figure far above
    0 even then, and so do documents of several kinds. The ceiling is H(class).
    """

    information: Estimate
    excess: Estimate

    @property
    def share(self) -> Estimate:
        """What is in excess of chance, as a share of H(class)."""
        entropy = self.information.ceiling
        assert entropy is not None
        scale = 1 / entropy if entropy > 1e-12 else 1.0

        def scaled(bound: float | None) -> float | None:
            return None if bound is None else bound * scale

        return replace(
            self.excess,
            value=self.excess.value * scale,
            low=scaled(self.excess.low),
            high=scaled(self.excess.high),
            ceiling=scaled(self.excess.ceiling),
        )


@dataclass(frozen=True)
class Told:
    """What top-1 experts tell of the classes: one depth's alone, of windows, and of whole paths.

    A window's figure is the mean over all windows of that many neighbouring routed depths.
    """

    tokens: int
    by_depth: tuple[ClassInformation, ...]
    windows: dict[int, ClassInformation]
    path: ClassInformation


@dataclass(frozen=True)
class PathProfile:
    """Classes of the tokens on one path.

    `main` is its most frequent class and `share` that one's share, with Wilson's interval.
    `log_odds_C` compares each class with the rest of the text, see `specialisation.log_odds`; it is
    NaN for classes that the text has no token of.
    """

    count_C: npt.NDArray[np.integer]
    log_odds_C: npt.NDArray[np.float64]
    main: int
    share: Estimate


@dataclass(frozen=True)
class PathClasses:
    """What paths are about.

    `kind` is about the classes of all tokens, `place` about beginning or continuation among the
    tokens of words; None where there are no such tokens. `profiles` are those of the most frequent
    paths, most frequent first.
    """

    count_C: npt.NDArray[np.integer]
    kind: Told
    place: Told | None
    profiles: tuple[PathProfile, ...]


def path_classes(
    trace: Trace,
    classes: TokenClasses,
    resampler: Resampler,
    windows: Iterable[int],
    paths: int,
) -> PathClasses:
    """Measure what the paths of a trace are about.

    Args:
        trace: N tokens.
        classes: of its tokens.
        resampler: of its documents.
        windows: numbers of neighbouring routed depths.
        paths: number of the most frequent paths that get a profile.
    """
    widths = tuple(windows)
    in_word_N = classes.place_N != OUTSIDE
    place = None
    if in_word_N.any():
        of_words = trace.select(in_word_N)
        again = Resampler(
            of_words.document_N, of_words.domain_N, draws=len(resampler.weights_RG) - 1
        )
        place = told(of_words, classes.place_N[in_word_N], again, widths)
    return PathClasses(
        count_C=np.bincount(classes.class_N, minlength=len(CLASSES)),
        kind=told(trace, classes.class_N, resampler, widths),
        place=place,
        profiles=profiles(trace, classes.class_N, resampler, paths),
    )


def told(
    trace: Trace,
    class_N: npt.NDArray[np.integer],
    resampler: Resampler,
    windows: Sequence[int] = (),
) -> Told:
    """What experts and paths tell of the class of each token.

    Args:
        trace: N tokens.
        class_N: 0, 1, … of each.
        resampler: of the trace's documents.
        windows: numbers of neighbouring routed depths.
    """
    routed = len(trace.info.routed)
    shuffled_SN = _within_documents(class_N, trace.document_N)

    def of(start: int, width: int) -> ClassInformation:
        depths = slice(start, start + width)
        path_N = label(trace.top1_NL[:, depths], trace.info.experts[depths])
        return class_information(path_N, class_N, shuffled_SN, resampler)

    def of_windows(width: int) -> ClassInformation:
        parts = [of(start, width) for start in range(routed - width + 1)]
        return ClassInformation(
            mean_of([part.information for part in parts]), mean_of([part.excess for part in parts])
        )

    return Told(
        tokens=len(trace),
        by_depth=tuple(of(row, 1) for row in range(routed)),
        windows={width: of_windows(width) for width in windows},
        path=of(0, routed),
    )


def class_information(
    path_N: npt.NDArray[np.integer],
    class_N: npt.NDArray[np.integer],
    shuffled_SN: npt.NDArray[np.integer],
    resampler: Resampler,
) -> ClassInformation:
    """I(path; class), nats, beside chance.

    I is a mean over tokens of log n·n_pc / (n_p·n_c), and that is what is resampled, by documents.
    Where nothing is told, this log ratio less that of the permutations hardly scatters between
    documents, so the interval of the excess is never narrower than the permutations' own scatter.

    Args:
        path_N: path of each token, 0, 1, …
        class_N: class of each token.
        shuffled_SN: the classes permuted, S times.
        resampler: of the documents.
    """
    entropy = entropy_of(np.bincount(class_N))
    ratio_N = _log_ratio(path_N, class_N)
    by_chance_N = np.zeros(len(path_N))
    scattered = []
    for shuffled_N in shuffled_SN:
        again_N = _log_ratio(path_N, shuffled_N)
        scattered.append(float(again_N.mean()))
        by_chance_N += again_N / len(shuffled_SN)
    expected = float(np.mean(scattered))
    information = resampler.mean(ratio_N, chance=expected, ceiling=entropy)
    excess = resampler.mean(
        ratio_N - by_chance_N, chance=0.0, ceiling=entropy - expected, floor=-np.inf
    )
    if excess.low is not None and excess.high is not None:
        half = 1.96 * float(np.std(scattered, ddof=1))
        excess = replace(
            excess,
            low=min(excess.low, excess.value - half),
            high=max(excess.high, excess.value + half),
        )
    return ClassInformation(information, excess)


def profiles(
    trace: Trace, class_N: npt.NDArray[np.integer], resampler: Resampler, paths: int
) -> tuple[PathProfile, ...]:
    """Classes on the most frequent paths, in the order of `paths.most_frequent`."""
    path_N = label(trace.top1_NL, trace.info.experts)
    best = np.argsort(-np.bincount(path_N), kind="stable")[:paths]
    all_C = np.bincount(class_N, minlength=len(CLASSES))
    made = []
    for path in best:
        on_path_N = path_N == path
        count_C = np.bincount(class_N[on_path_N], minlength=len(CLASSES))
        main = int(count_C.argmax())
        log_odds_C = np.full(len(CLASSES), np.nan)
        present = all_C > 0
        log_odds_C[present] = log_odds(count_C[present], all_C[present])[0]
        made.append(
            PathProfile(
                count_C=count_C,
                log_odds_C=log_odds_C,
                main=main,
                share=_share(on_path_N, class_N == main, resampler),
            )
        )
    return tuple(made)


def _share(
    on_path_N: npt.NDArray[np.bool_], main_N: npt.NDArray[np.bool_], resampler: Resampler
) -> Estimate:
    """Share of a path's tokens, with Wilson's interval over so many tokens as they are worth.

    Tokens of a document are alike, so they count as the number of independent ones that would
    scatter as resampled documents do; where all are of one class, as many as blocks of documents.
    """
    both_G = resampler.per_block(on_path_N & main_N)
    tokens_G = resampler.per_block(on_path_N)
    with np.errstate(invalid="ignore"):
        shares_R = resampler.totals(both_G) / resampler.totals(tokens_G)
    tokens, share, blocks = int(tokens_G.sum()), float(shares_R[0]), int((tokens_G > 0).sum())
    variance = float(np.nanvar(shares_R[1:])) if blocks > 1 else 0.0
    worth = share * (1 - share) / variance if variance > 0 else blocks
    return replace(wilson(share, max(1, min(tokens, round(worth)))), n=blocks)


def _log_ratio(
    path_N: npt.NDArray[np.integer], class_N: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Log n·n_pc / (n_p·n_c) of each token; its mean is the plug-in mutual information, nats."""
    joint_N = path_N * (int(class_N.max()) + 1) + class_N
    joint, path, kind = np.bincount(joint_N), np.bincount(path_N), np.bincount(class_N)
    ratio_N: npt.NDArray[np.float64] = np.log(
        len(path_N) * joint[joint_N] / (path[path_N] * kind[class_N])
    )
    return ratio_N


def _within_documents(
    class_N: npt.NDArray[np.integer], document_N: npt.NDArray[np.integer]
) -> npt.NDArray[np.integer]:
    """Permute the classes within each document, (S, N)."""
    generator = np.random.default_rng(0)
    in_order_N = np.argsort(document_N, kind="stable")
    shuffled_SN = np.empty((SHUFFLES, len(class_N)), dtype=class_N.dtype)
    for shuffled_N in shuffled_SN:
        order_N = np.lexsort((generator.random(len(class_N)), document_N))
        shuffled_N[in_order_N] = class_N[order_N]
    return shuffled_SN
