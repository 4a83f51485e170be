"""All metrics of one trace, as values for figures and as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from plait.routing.metrics.classes import ClassInformation, PathClasses, Told, path_classes
from plait.routing.metrics.consistency import (
    Consistency,
    Engagement,
    Information,
    agreement,
    consistency,
    engagement,
    information,
)
from plait.routing.metrics.flow import Flow, flow
from plait.routing.metrics.load import CoActivation, Load, coactivation, load, router_entropy
from plait.routing.metrics.paths import Coverage, Entropy, coverage, entropy, window_entropy
from plait.routing.metrics.specialisation import (
    Distinctive,
    DomainSpecialisation,
    by_domain,
    by_token,
    expert_tokens,
    path_domain_information,
    path_tokens,
)
from plait.routing.metrics.topology import Topology
from plait.routing.perturb import Robustness
from plait.routing.token_classes import CLASSES, token_classes
from plait.routing.trace import Trace, TraceInfo
from plait.statistics import Estimate, Resampler

WINDOWS = (2, 4, 8)
PATHS = 10
"""paths, and tokens of each, that are written out"""


@dataclass(frozen=True, kw_only=True)
class FrequentPath:
    """One of the most frequent paths: its experts, its distinctive tokens, its share by domain."""

    experts: tuple[int, ...]
    distinctive: Distinctive
    share_D: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Every metric of one trace; `docs/routing.md` defines them. By depth = by routed depth."""

    info: TraceInfo
    tokens: int
    documents: int
    tokens_by_domain: dict[str, int]
    entropy: Entropy
    windows: dict[int, Entropy]
    coverage: Coverage
    consistency: Consistency
    information: Information
    engagement: Engagement
    agreement: dict[tuple[int, ...], Estimate]
    flow: Flow
    load: Load
    router_entropy: tuple[Estimate, ...] | None
    coactivation: tuple[CoActivation, ...]
    domains: DomainSpecialisation | None
    path_domains: Estimate | None
    token_information: tuple[Estimate, ...]
    paths: tuple[FrequentPath, ...]
    expert_tokens: tuple[dict[int, Distinctive], ...]
    classes: PathClasses | None = None
    topologies: tuple[Topology, ...] = ()
    robustness: tuple[Robustness, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        notes = []
        shared = self.consistency.shared_labels_LL
        pairs = len(shared) - 1
        same = sum(bool(shared[row, row + 1]) for row in range(pairs))
        if same < pairs:
            notes.append(
                f"{pairs - same} of {pairs} neighbouring depths share neither expert bank, router "
                "nor decision: an expert index has no common meaning there, and consistency and "
                "runs say nothing; read the mutual information, which needs no labels."
            )
        if self.documents < 2:
            notes.append("One document: no intervals, since they are taken over documents.")
        if self.entropy.distinct > 0.5 * self.tokens:
            notes.append(
                f"{self.entropy.distinct:,.0f} different paths in {self.tokens:,} tokens: entropy "
                "and coverage of whole paths say how large the sample is; read the windows."
            )
        return notes

    def to_dict(self, decode: Callable[[int], str] | None = None) -> dict[str, Any]:
        """Everything as plain values for `json.dumps`; tokens with their text if `decode` is given.

        Matrices of co-activation and of topologies are left out: they are in the trace and the
        model.
        """
        info = self.info

        def tokens_of(found: Distinctive) -> list[dict[str, Any]]:
            rows = zip(found.token_ids, found.log_odds, found.z_scores, found.counts, strict=True)
            return [
                {"token": token, "log_odds": delta, "z": z, "count": count}
                | ({"text": decode(token)} if decode is not None else {})
                for token, delta, z, count in rows
            ]

        data = {
            "model": {
                "name": info.model,
                "tokenizer": info.tokenizer,
                "depth": info.depth,
                "routed": info.routed,
                "dense": info.dense,
                "experts": info.experts,
                "top_k": info.top_k,
                "plans": {
                    "experts": info.expert_plan,
                    "router": info.router_plan,
                    "decision": info.decision_plan,
                },
            },
            "sample": {
                "tokens": self.tokens,
                "documents": self.documents,
                "tokens_by_domain": self.tokens_by_domain,
                "context": info.context,
            },
            "notes": self.notes,
            "paths": {
                "entropy": _fields(self.entropy),
                "windows": {width: _fields(found) for width, found in self.windows.items()},
                "coverage": self.coverage.shares,
                "paths_for": self.coverage.paths_for,
                "most_frequent": [
                    {
                        "experts": path.experts,
                        "tokens": path.distinctive.tokens,
                        "share_by_domain": dict(
                            zip(info.domains, path.share_D.tolist(), strict=True)
                        ),
                        "distinctive": tokens_of(path.distinctive),
                    }
                    for path in self.paths
                ],
            },
            "consistency": _fields(self.consistency),
            "information": _fields(self.information),
            "engagement": _fields(self.engagement),
            "agreement": [
                {"depths": depths, **_figure(found, self.tokens)}
                for depths, found in self.agreement.items()
            ],
            "load": _fields(self.load),
            "router_entropy": self.router_entropy,
            "coactivation": {
                "pair_entropy": [found.pair_entropy for found in self.coactivation],
            },
            "specialisation": {
                "domains": None if self.domains is None else _fields(self.domains),
                "path_domains": self.path_domains,
                "token_information": self.token_information,
                "experts": [
                    {expert: tokens_of(found) for expert, found in by_expert.items()}
                    for by_expert in self.expert_tokens
                ],
            },
            "classes": None if self.classes is None else self._classes(self.classes),
            "topology": [
                {
                    name: value
                    for name, value in vars(found).items()
                    if not name.endswith("_EE") and name != "s_EE"
                }
                for found in self.topologies
            ],
            "robustness": [found.to_dict() for found in self.robustness],
        }
        plain = _plain(data, self.tokens)
        assert isinstance(plain, dict)
        return plain

    def _classes(self, found: PathClasses) -> dict[str, Any]:
        def told(about: Told) -> dict[str, Any]:
            def of(part: ClassInformation) -> dict[str, Any]:
                return {
                    name: _figure(getattr(part, name), about.tokens)
                    for name in ("information", "excess", "share")
                }

            return {
                "by_depth": [of(part) for part in about.by_depth],
                "windows": {width: of(part) for width, part in about.windows.items()},
                "path": of(about.path),
            }

        return {
            "tokens": dict(zip(CLASSES, found.count_C, strict=True)),
            "kind": told(found.kind),
            "place": None if found.place is None else told(found.place),
            "most_frequent": [
                {
                    "experts": path.experts,
                    "tokens": dict(zip(CLASSES, profile.count_C, strict=True)),
                    "log_odds": dict(zip(CLASSES, profile.log_odds_C, strict=True)),
                    "main": CLASSES[profile.main],
                    "share": _figure(profile.share, path.distinctive.tokens),
                }
                for path, profile in zip(self.paths, found.profiles, strict=True)
            ],
        }


def analyse(
    trace: Trace,
    *,
    decode: Callable[[int], str] | None = None,
    topologies: Sequence[Topology] = (),
    robustness: Sequence[Robustness] = (),
    draws: int = 100,
    progress: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Compute every metric of a trace.

    Args:
        trace: the tokens.
        decode: the text of a token, for what paths are about; None leaves that out.
        topologies: of the model, see `metrics.topology.topologies`.
        robustness: of the model, see `perturb.robustness`.
        draws: bootstrap resamples.
        progress: called with the name of what comes next.
    """
    info, r = trace.info, Resampler(trace.document_N, trace.domain_N, draws=draws)
    rows = range(len(info.routed))
    counts_D = np.bincount(trace.domain_N, minlength=len(info.domains))
    progress("paths")
    path_entropy, covered = entropy(trace, r), coverage(trace, r)
    windows = {w: window_entropy(trace, r, w) for w in WINDOWS if w < len(info.routed)}
    progress("consistency")
    consistent, informed = consistency(trace, r), information(trace, r)
    progress("load")
    loads = load(trace, r)
    together = tuple(coactivation(trace, r, row) for row in rows)
    progress("specialisation")
    about = None
    if decode is not None:
        about = path_classes(trace, token_classes(trace, decode), r, tuple(windows), PATHS)
    return Analysis(
        info=info,
        tokens=len(trace),
        documents=r.documents,
        tokens_by_domain=dict(zip(info.domains, counts_D.tolist(), strict=True)),
        entropy=path_entropy,
        windows=windows,
        coverage=covered,
        consistency=consistent,
        information=informed,
        engagement=engagement(trace, r),
        agreement=agreement(trace, r),
        flow=flow(trace),
        load=loads,
        router_entropy=None if trace.router_entropy_NL is None else router_entropy(trace, r),
        coactivation=together,
        domains=by_domain(trace, r),
        path_domains=path_domain_information(trace, r),
        token_information=tuple(by_token(trace, r, row) for row in rows),
        paths=tuple(
            FrequentPath(experts=experts, distinctive=found, share_D=share_D)
            for experts, found, share_D in path_tokens(trace, PATHS, PATHS)
        ),
        expert_tokens=tuple(expert_tokens(trace, row, PATHS) for row in rows),
        classes=about,
        topologies=tuple(topologies),
        robustness=tuple(robustness),
    )


def notes(analyses: Sequence[Analysis]) -> list[tuple[str, str]]:
    """What a reader has to know, each note once: the models it is about, and the note."""
    about: dict[str, list[str]] = {}
    for found in analyses:
        for note in found.notes:
            about.setdefault(note, []).append(found.info.model)
    return [(", ".join(names), note) for note, names in about.items()]


def _fields(value: object) -> dict[str, object]:
    return dict(vars(value))


def _plain(value: object, tokens: int) -> object:
    """Turn nested figures over `tokens` tokens, and arrays, into what `json.dumps` takes."""
    if isinstance(value, Estimate):
        return _plain(_figure(value, tokens), tokens)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, tokens) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, tokens) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), tokens)
    if isinstance(value, np.generic):
        return _plain(value.item(), tokens)
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _figure(found: Estimate, tokens: int) -> dict[str, object]:
    figure = {name: value for name, value in vars(found).items() if name != "n"}
    return {**figure, "tokens": tokens, "documents": found.n}
