"""Configurations: frozen dataclasses that *are* the experiment, their files, and what they cost.

What exists only at run time (device, mesh, tokenizer) is an argument elsewhere. No torch in here.
"""

from plait.config.model import ModelConfig
from plait.config.parts import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    RopeScaling,
    RouterConfig,
)
from plait.config.training import (
    CheckpointConfig,
    DataConfig,
    Divisor,
    EvaluationConfig,
    MuonScale,
    OptimizerConfig,
    Role,
    ScheduleConfig,
    TrainConfig,
)

__all__ = [
    "AttentionConfig",
    "BalanceConfig",
    "CheckpointConfig",
    "CollaborationConfig",
    "DataConfig",
    "Divisor",
    "EvaluationConfig",
    "ExpertConfig",
    "ModelConfig",
    "MuonScale",
    "OptimizerConfig",
    "Role",
    "RopeScaling",
    "RouterConfig",
    "ScheduleConfig",
    "TrainConfig",
]
