import multiprocessing
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext

import pytest

from plait.config import (
    AttentionConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.data.tokenizer import Tokenizer
from plait.sharing import Sharing
from plait.storage.model_folder import save_model
from toy_models import VOCABULARY, lively
from warm import Warm


@pytest.fixture(scope="session")
def woven() -> ModelConfig:
    """Everything that transformers' own architectures have not."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        depth=6,
        width=32,
        context=96,
        attention=AttentionConfig(heads=4, kv_heads=2, qk_norm="head", lora_rank=2),
        experts=ExpertConfig(count=4, width=16, top_k=3, shared_width=8),
        router=RouterConfig(bias=True),
        collaboration=CollaborationConfig(),
        sharing=Sharing(
            experts="groups(2, skip=1)",
            router="blocks(2)",
            attention="all",
            norms="blocks(3)",
            collaboration="blocks(2)",
        ),
    )


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    Tokenizer.train(["the cat sat on the mat. " * 20, "a dog and a cat"], VOCABULARY).save(path)
    return path


@pytest.fixture(scope="session")
def woven_folder(woven, tokenizer_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("woven") / "model"
    save_model(folder, woven, lively(woven).state_dict(), tokenizer_file)
    return folder


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Processes that need not read torch again."""
    server = Warm()
    yield server
    server.close()


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Real processes that start fast: forked from a server which has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["plait.training.loop", "plait.routing"])
    return context
