from dataclasses import replace

import pytest
import torch

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CheckpointConfig,
    CollaborationConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    RouterConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.config.files import config_hash
from plait.sharing import Sharing
from plait.training import train
from tiny_corpus import tiny


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny")


@pytest.fixture(scope="session")
def config(corpus):
    """A run of 24 steps that has everything which must survive an interruption."""
    model = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=2,
        width=32,
        context=32,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=16, top_k=3),
        router=RouterConfig(bias=True),
        collaboration=CollaborationConfig(),
        balance=BalanceConfig(z=1e-3, bias_rate=1e-3),
        sharing=Sharing(experts="all"),
        dropout=0.1,
    )
    return TrainConfig(
        model=model,
        data=DataConfig(corpus=str(corpus.path), sequence_length=32, batch=8, micro_batch=4),
        tokens=24 * 8 * 32,
        optimizer=OptimizerConfig(name="muon", learning_rate=0.02, tied_divisor="sqrt"),
        schedule=ScheduleConfig(warmup=512, floor=0.1),
        evaluation=EvaluationConfig(every=6, tokens=300, final_tokens=500, batch=4),
        checkpoint=CheckpointConfig(every=2, keep=2),
    )


@pytest.fixture(scope="session")
def undisturbed(config, tmp_path_factory):
    """The folder of a finished run of `config` that nothing interrupted."""
    folder = tmp_path_factory.mktemp("study") / f"variant-s0-{config_hash(config)}"
    train(config, folder, device="cpu")
    return folder


@pytest.fixture
def plain(config):
    """A run without sharing, collaboration or bias, in micro-batches of two sequences."""
    return replace(
        config,
        model=replace(
            config.model,
            dropout=0.0,
            sharing=Sharing(),
            collaboration=None,
            router=RouterConfig(),
            balance=BalanceConfig(z=1e-3),
        ),
        data=replace(config.data, micro_batch=2),
        optimizer=OptimizerConfig(learning_rate=0.003),
        evaluation=EvaluationConfig(tokens=300, final_tokens=300),
    )


@pytest.fixture
def longer(config):
    return replace(config, tokens=2 * config.tokens)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
