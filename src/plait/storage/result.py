"""What a finished run says of itself: `result.json`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plait.atomic import write_json
from plait.config.files import load_json
from plait.reading import quoted

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

    def __post_init__(self) -> None:
        domains = self.evaluation.get("domains")
        if not isinstance(domains, dict) or "all" not in domains:
            raise ValueError("evaluation: the losses by domain are missing")
        for domain, measures in domains.items():
            for name in MEASURES:
                value = measures.get(name) if isinstance(measures, dict) else None
                if not isinstance(value, (int, float)) or value is True:
                    raise ValueError(
                        f"evaluation: {name} of {quoted(domain)} is {quoted(value)}, no number"
                    )

    def save(self, folder: Path) -> None:
        """Write `result.json`: last of all, so that it marks the run as finished."""
        write_json(folder / RESULT, asdict(self))

    @classmethod
    def load_from(cls, folder: Path) -> "Result | None":
        """Read `result.json`; None where the run is not finished."""
        path = folder / RESULT
        if not path.is_file():
            return None
        return load_json(cls, path, "delete it and run again")

    def held_out(self, domain: str = "all", measure: str = "loss") -> float:
        """A measure ("loss" in nats per token, "perplexity", "bits_per_byte") on the test split."""
        return float(self.evaluation["domains"][domain][measure])

    @property
    def domains(self) -> Mapping[str, Mapping[str, float]]:
        """All measures on the test split by domain, and of all domains together as "all"."""
        domains: Mapping[str, Mapping[str, float]] = self.evaluation["domains"]
        return domains
