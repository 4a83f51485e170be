"""What a finished run says of itself: `result.json`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plait.atomic import write_json
from plait.config.files import load_json
from plait.notebook.tables import note, table, titled
from plait.reading import quoted, read_json

RESULT = "result.json"
MEASURES = ("loss", "perplexity", "bits_per_byte", "tokens", "bytes")
"""of each domain on the test split"""


@dataclass(frozen=True)
class Result:
    """What a finished run says of itself; `result.json` holds just these names."""

    study: str
    variant: str
    seed: int
    config_hash: str
    steps: int
    tokens: int
    skipped_steps: int
    evaluation: dict[str, Any]
    """{"split", "domains": {name: {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}}}"""
    parameters: dict[str, int]
    """total as if nothing were shared, stored, active per token"""
    flops_per_token: dict[str, float]
    """forward, training"""
    gate_mass: float | None
    """mean sum of a token's gates on the test split; None without routers"""
    load: list[list[float] | None]
    """by depth: each expert's share of the test split's load"""
    seconds: float
    tokens_per_second: float
    corpus_fingerprint: str
    environment: dict[str, Any]
    recoveries: list[dict[str, int]] = field(default_factory=list)
    """times that the run went back to a checkpoint: {"step", "back_to", "tokens_skipped"}"""
    loss_spikes: int = 0
    """steps whose loss was finite and far above those before it"""
    floors: dict[str, dict[str, dict[str, float]]] | None = None
    """what counting scores on the same tokens: {"unigram" or "bigram": measures by domain}"""
    checkpoint: str | None = None
    """SHA-256 of the manifest of the checkpoint that was scored"""

    def __post_init__(self) -> None:
        _check_measures("evaluation", self.evaluation.get("domains"))
        if self.floors is not None:
            for kind in ("unigram", "bigram"):
                _check_measures(f"floors: {kind}", self.floors.get(kind))

    def save(self, folder: Path) -> None:
        """Write `result.json`: last of all, so that it marks the run as finished."""
        data = asdict(self)
        write_json(folder / RESULT, {**data, "sha256": _digest(data)})

    @classmethod
    def load_from(cls, folder: Path) -> "Result | None":
        """Read `result.json`; None where the run is not finished."""
        path = folder / RESULT
        if not path.is_file():
            return None
        return load_json(cls, path, "delete it and run again")

    @staticmethod
    def check_unchanged(folder: Path) -> None:
        """Compare `result.json` with the hash that was written into it.

        Raises:
            ValueError: it was changed since; or an earlier version wrote it, without a hash.
        """
        data = read_json(folder / RESULT, "delete it and run again")
        written = data.pop("sha256", None)
        if written is None:
            raise ValueError("it has no hash of its own: an earlier version wrote it")
        if written != _digest(data):
            raise ValueError("it was changed by hand: train again")

    def held_out(self, domain: str = "all", measure: str = "loss") -> float:
        """A measure ("loss" in nats per token, "perplexity", "bits_per_byte") on the test split."""
        return float(self.evaluation["domains"][domain][measure])

    @property
    def domains(self) -> Mapping[str, Mapping[str, float]]:
        """All measures on the test split by domain, and of all domains together as "all"."""
        domains: Mapping[str, Mapping[str, float]] = self.evaluation["domains"]
        return domains

    def _repr_html_(self) -> str:
        heads = ("held-out text", "loss, nats/token", "perplexity", "bits/byte", "tokens scored")
        rows = [
            (
                domain,
                f"{measures['loss']:.3f}",
                f"{measures['perplexity']:.1f}",
                f"{measures['bits_per_byte']:.3f}",
                f"{measures['tokens']:,.0f}",
            )
            for domain, measures in self.domains.items()
        ]
        said = f"{self.tokens:,} tokens seen in {self.steps:,} steps, {self.seconds:,.0f} s"
        if "stored" in self.parameters:
            said += f" · {self.parameters['stored']:,} parameters stored"
        return titled(
            f"{self.study}: {self.variant}, seed {self.seed}", table(rows, heads), note(said)
        )


def _check_measures(what: str, domains: Any) -> None:
    if not isinstance(domains, dict) or "all" not in domains:
        raise ValueError(f"{what}: the losses by domain are missing")
    for domain, measures in domains.items():
        for name in MEASURES:
            value = measures.get(name) if isinstance(measures, dict) else None
            if not isinstance(value, (int, float)) or value is True:
                raise ValueError(
                    f"{what}: {name} of {quoted(domain)} is {quoted(value)}, no number"
                )


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
