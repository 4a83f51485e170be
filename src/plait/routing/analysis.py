"""All metrics of one trace: as values for figures, as JSON, as rows of a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from rich.text import Text
from torch import nn

from plait.model import LanguageModel
from plait.model.collaboration import Collaboration
from plait.model.collaboration import topology as topology_of
from plait.routing.measured import Measured, Resampler, figures_to_dict
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
from plait.routing.metrics.paths import (
    Coverage,
    Entropy,
    coverage,
    entropy,
    mean_of,
    window_entropy,
)
from plait.routing.metrics.specialisation import (
    Distinctive,
    DomainSpecialisation,
    by_domain,
    by_token,
    expert_tokens,
    path_domain_information,
    path_tokens,
)
from plait.routing.metrics.topology import Topology, topology
from plait.routing.perturb import Robustness
from plait.routing.trace import Trace, TraceInfo

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
    agreement: dict[tuple[int, ...], Measured]
    flow: Flow
    load: Load
    router_entropy: tuple[Measured, ...] | None
    coactivation: tuple[CoActivation, ...]
    domains: DomainSpecialisation | None
    path_domains: Measured | None
    token_information: tuple[Measured, ...]
    paths: tuple[FrequentPath, ...]
    expert_tokens: tuple[dict[int, Distinctive], ...]
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
            rows = zip(found.token_ids, found.z_scores, found.counts, strict=True)
            return [
                {"token": token, "z": z, "count": count}
                | ({"text": decode(token)} if decode is not None else {})
                for token, z, count in rows
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
                {"depths": depths, **found.to_dict()} for depths, found in self.agreement.items()
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
        plain = figures_to_dict(data)
        assert isinstance(plain, dict)
        return plain


def analyse(
    trace: Trace,
    *,
    topologies: Sequence[Topology] = (),
    robustness: Sequence[Robustness] = (),
    draws: int = 100,
    progress: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Compute every metric of a trace.

    Args:
        trace: the tokens.
        topologies: of the model, see `topologies`.
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
        topologies=tuple(topologies),
        robustness=tuple(robustness),
    )


def summarise(trace: Trace, decode: Callable[[int], str] | None = None) -> dict[str, Any]:
    """Every metric of a trace as plain values for `json.dumps`."""
    return analyse(trace).to_dict(decode)


def topologies(model: nn.Module, trace: Trace | None = None) -> list[Topology]:
    """Measure the S of each collaboration bank of our model beside the S that it began with.

    Empty for a model without one. A frozen random S began as it is.
    """
    ours = next((m for m in model.modules() if isinstance(m, LanguageModel)), None)
    if ours is None or ours.config.collaboration is None:
        return []
    config, found = ours.config.collaboration, []
    plan = ours.config.plans.collaboration
    for key, module in ours.collaboration.items():
        assert isinstance(module, Collaboration)
        with torch.no_grad():
            raw = module.raw if config.control == "frozen-random" else torch.zeros_like(module.raw)
            untrained, trained = topology_of(raw, config), module()
        found.append(
            topology(
                int(key),
                tuple(d for d in plan.uses(int(key)) if d in ours.config.routed_depths),
                trained.cpu().numpy(),
                untrained.cpu().numpy(),
                self_loop=config.self_loop,
                row_normalise=config.row_normalise,
                trace=trace,
            )
        )
    return found


def notes(analyses: Sequence[Analysis]) -> list[tuple[str, str]]:
    """What a reader has to know, each note once: the models it is about, and the note."""
    about: dict[str, list[str]] = {}
    for found in analyses:
        for note in found.notes:
            about.setdefault(note, []).append(found.info.model)
    return [(", ".join(names), note) for note, names in about.items()]


def table(analyses: Sequence[Analysis]) -> Table:
    """One row per metric, one column per model: value, its 95 % interval, and chance."""
    first = analyses[0]
    result = Table(
        title=f"Routing of {first.tokens:,} tokens in {first.documents:,} documents",
        caption="value [95 % interval over documents] · chance = independent uniform choice",
        caption_justify="left",
    )
    result.add_column("metric")
    for analysed in analyses:
        result.add_column(Text(analysed.info.model), justify="right")
    columns = [dict(_rows(analysed)) for analysed in analyses]
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [column.get(name) for column in columns]
        if any(cell is not None for cell in cells):
            result.add_row(name, *[Text("–" if cell is None else cell) for cell in cells])
    return result


def _rows(analysed: Analysis) -> list[tuple[str, str | None]]:
    """Rows of one model in the order of the table, None where it has no such figure."""
    info, found = analysed.info, analysed
    same = found.consistency.within_shared is not None
    rows: list[tuple[str, Measured | str | None]] = [
        ("experts · top-k · routed depths", _structure(info)),
        ("different paths", f"{found.entropy.distinct:,.0f}"),
        ("path entropy, nats", found.entropy.plug_in),
        ("path entropy, Miller–Madow, nats", found.entropy.miller_madow),
    ]
    for width, window in found.windows.items():
        rows.append((f"  windows of {width} depths, nats", window.miller_madow))
    for n in (10, 100):
        if n in found.coverage.shares:
            rows.append((f"tokens on the {n} most frequent paths", found.coverage.shares[n]))
    rows += [
        ("consistency (Jaccard), neighbouring depths", found.consistency.adjacent),
        ("  where labels are shared", found.consistency.within_shared),
        ("mutual information / entropy, label-free", found.information.adjacent),
        ("longest run of one expert, depths", found.engagement.longest if same else None),
        ("tokens with a run ≥ 4 depths", found.engagement.four if same else None),
        ("agreement in tied groups", _mean(list(found.agreement.values()))),
        ("load, max / mean (MaxVio)", _mean(found.load.max_over_mean)),
        ("dead experts per depth", _mean(found.load.dead)),
        ("load entropy, nats", _mean(found.load.entropy)),
        ("router entropy, nats", _mean(found.router_entropy or ())),
        ("entropy of expert pairs, nats", _mean([c.pair_entropy for c in found.coactivation])),
        ("token tells expert, I / H", _mean(found.token_information)),
    ]
    if found.domains is not None:
        rows += [
            ("specialisation by domain, mean |s|", _mean(found.domains.mean_index or ())),
            ("expert tells domain, chance-corrected", _mean(found.domains.corrected)),
            ("path tells domain, I / H", found.path_domains),
        ]
    topology_entropy = None
    if found.topologies:
        trained = np.mean([t.row_entropy for t in found.topologies])
        untrained = np.mean([t.untrained_row_entropy for t in found.topologies])
        topology_entropy = f"{trained:.3f} ({untrained:.3f})"
    rows.append(("row entropy of S (untrained), nats", topology_entropy))
    ablated = [p for p in found.robustness if p.kind == "random depth"]
    if ablated:
        worst = max(ablated, key=lambda p: p.rise)
        each = f"worst {worst.rise:+.3f} (depth {worst.setting:g}), mean "
        each += f"{np.mean([p.rise for p in ablated]):+.3f}"
        rows.append(("rise of loss: one depth random, nats", each))
    for perturbed in found.robustness:
        if perturbed.kind == "random depth":
            continue
        setting = "" if perturbed.setting is None else f" {perturbed.setting:g}"
        spread = "" if perturbed.spread is None else f" ± {perturbed.spread:.3f}"
        percent = 100 * (perturbed.perplexity_ratio - 1)
        rise = f"{perturbed.rise:+.3f}{spread} ({percent:+.0f} % PPL)"
        rows.append((f"rise of loss: {perturbed.kind}{setting}, nats", rise))
    return [(name, None if value is None else _shown(value)) for name, value in rows]


def _structure(info: TraceInfo) -> str:
    counts = sorted(set(info.experts))
    experts = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"{experts} · {info.top_k} · {len(info.routed)} of {info.depth}"


def _mean(parts: Sequence[Measured | None]) -> Measured | None:
    known = [part for part in parts if part is not None]
    return mean_of(known) if known else None


def _shown(value: Measured | str) -> str:
    if isinstance(value, str):
        return value
    interval = ""
    if value.low is not None and value.high is not None:
        interval = f" [{_number(value.low)}, {_number(value.high)}]"
    by_chance = "" if value.chance is None else f" · chance {_number(value.chance)}"
    return f"{_number(value.value)}{interval}{by_chance}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _fields(value: object) -> dict[str, object]:
    return dict(vars(value))
