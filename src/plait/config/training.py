"""The typed, frozen configuration of a training run: what the experiment is, whole."""

from dataclasses import dataclass, field, fields
from typing import Literal

from plait.config.limits import TRAINING_LIMITS, check_limits
from plait.config.model import ModelConfig

Role = Literal["embedding", "head", "matrix", "expert", "router", "norm", "topology", "bias"]
"""what a parameter is for; modules declare it, optimizers group by it"""
Divisor = Literal["none", "sqrt", "linear"] | float
MuonScale = Literal["original", "match-adamw"]

MUONS_OWN = ("adamw_factor", "adamw_decay", "momentum")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text, in which pieces."""

    corpus: str = "starter"
    """name of a corpus in the cache, or the path of its folder; it may be a stream"""
    sequence_length: int = 256
    """tokens in a sequence"""
    batch: int = 16
    """sequences in an optimizer step, over all processes"""
    micro_batch: int | None = None
    """sequences that go through the model at once on a process, whose load a balance loss takes;
    None: a process' share of batch, and the load of all processes together"""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its rates; the schedule multiplies all of them alike."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw for all, or muon for matrices and experts with adamw for the rest"""
    learning_rate: float = 1e-3
    """peak learning rate; of Muon's part in a muon run"""
    weight_decay: float = 0.1
    """decoupled decay per unit of learning rate; norms, biases and topology have none"""
    adamw_decay: float | None = field(default=None, metadata={"added": True})
    """muon: weight_decay of what AdamW trains; None: the same"""
    beta1: float = 0.9
    """AdamW: decay of the mean gradient"""
    beta2: float = 0.95
    """AdamW: decay of the mean squared gradient"""
    eps: float = 1e-8
    """AdamW: floor of the root mean square"""
    adamw_factor: float = 0.1
    """muon: rate of what AdamW trains, as a multiple of learning_rate (Expert Tying: 0.1)"""
    embedding_factor: float = field(default=1.0, metadata={"added": True})
    """rate of embeddings and head, as a multiple of AdamW's rate"""
    momentum: float = 0.95
    """muon: decay of the momentum"""
    muon_scale: MuonScale = "original"
    """muon: rate by shape, original √max(1, rows/columns) or match-adamw 0.2·√max(rows, columns)"""
    muon_precision: Literal["bf16", "fp32"] = "bf16"
    """muon: of the Newton–Schulz products; as with precision, where the processor has bf16"""
    topology_factor: float = 100.0
    """rate of the collaboration topology S, as a multiple of AdamW's rate (CT-MoE: 100)"""
    tied_divisor: Divisor = "none"
    """divide the rate of a bank used at g depths by 1, √g (Expert Tying) or g; a number: by that"""
    tied_roles: tuple[Role, ...] = ("expert",)
    """the roles that tied_divisor reaches, where their bank is really used at several depths"""

    def __post_init__(self) -> None:
        if self.name == "adamw":
            for option in fields(self):
                muons_own = option.name.startswith("muon_") or option.name in MUONS_OWN
                if muons_own and getattr(self, option.name) != option.default:
                    raise ValueError(
                        f"optimizer.{option.name} has no meaning for adamw: "
                        "unset it, or set optimizer.name to muon"
                    )
        factors = ("adamw_factor", "embedding_factor", "topology_factor")
        for name in ("learning_rate", *factors, "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}: it must be positive")
        if not isinstance(self.tied_divisor, str) and not self.tied_divisor > 0:
            raise ValueError(
                f"optimizer.tied_divisor is {self.tied_divisor}: it must be positive, or none, "
                "sqrt or linear"
            )
        for name, decay in (("weight_decay", self.weight_decay), ("adamw_decay", self.adamw_decay)):
            if decay is not None and decay < 0:
                raise ValueError(f"optimizer.{name} is {decay}: 0 or more")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}: it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate rises and falls over a run."""

    name: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """after the warm-up: cosine: half a cosine; linear: a straight fall to the end; wsd: stay, then
    a straight fall; constant: stay"""
    warmup: int = 0
    """tokens over which the rate rises from 0"""
    decay: int = 0
    """wsd: tokens over which it falls at the end"""
    floor: float = 0.0
    """share of the peak rate at the end; 0 for constant, which has no end"""

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"schedule.floor is {self.floor}: a share of the peak, in [0, 1]")
        if (self.name == "wsd") != (self.decay > 0):
            raise ValueError(
                "schedule.decay belongs to wsd: set it there, in tokens, and only there"
            )
        if self.name == "constant" and self.floor:
            raise ValueError("schedule.floor has no meaning for constant: unset it")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out loss by domain: the same tokens for every run that has the same sizes here."""

    every: int = 0
    """optimizer steps between evaluations on the validation split; 0: never"""
    tokens: int = 65_536
    """tokens of each domain in these evaluations"""
    final_tokens: int = 262_144
    """tokens of each domain of the test split, scored once at the end"""
    final_split: Literal["test", "validation"] = field(default="test", metadata={"added": True})
    """split that is scored at the end: validation for runs that choose something, as tuning does"""
    batch: int = 16
    """sequences that go through the model at once"""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How much work an interruption may cost."""

    every: int = 500
    """optimizer steps between checkpoints; one is written at the end in any case"""
    keep: int = 2
    """newest checkpoints that stay on the disk while it trains; a finished run keeps the last"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Its folder is named by the hash of all of this."""

    model: ModelConfig
    data: DataConfig = DataConfig()
    tokens: int = 10_000_000
    """tokens to train on; rounded down to whole optimizer steps"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    """of the computation; weights, gradients and optimizer state are fp32 in both. A CPU without
    units for bf16 computes in fp32, which is faster and more exact there, and the result says so"""
    clip: float | None = 1.0
    """largest norm of the whole gradient; None: as it comes"""
    skip_limit: int = 10
    """optimizer steps in a row whose loss or gradient is not finite: fewer are skipped; so many
    send the run back to its last checkpoint, past the batches that led there"""
    recoveries: int = field(default=2, metadata={"added": True})
    """times that a run may go back so; the next time it gives up"""
    activation_checkpointing: bool = False
    """recompute each depth in the backward pass: less memory, about a third more time"""
    initial_weights: str | None = field(default=None, metadata={"aliases": ("--from",)})
    """start from a .safetensors file, a checkpoint or a run's folder; None: random weights"""
    log_every: int = 1
    """optimizer steps between rows of metrics.jsonl"""
    seed: int = 0
    """of the initial weights, the order of the data and dropout"""

    def __post_init__(self) -> None:
        data = self.data
        check_limits(self, TRAINING_LIMITS)
        if data.sequence_length > self.model.context:
            raise ValueError(
                f"data.sequence_length is {data.sequence_length}, but model.context is "
                f"{self.model.context} tokens: shorten the one or lengthen the other"
            )
        if self.steps < 1:
            raise ValueError(
                f"tokens is {self.tokens:,}, less than one optimizer step of "
                f"{self.tokens_per_step:,}: train on more or make data.batch smaller"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}: it must be positive, or None for no clipping")
        shaped = self.schedule.warmup + self.schedule.decay
        if shaped > self.tokens:
            raise ValueError(
                f"schedule.warmup + schedule.decay is {shaped:,} tokens, more than the "
                f"{self.tokens:,} of the run: shorten them, or train on more tokens"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens in an optimizer step, over all processes."""
        return self.data.batch * self.data.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.tokens // self.tokens_per_step
