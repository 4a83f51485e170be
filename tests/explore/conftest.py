import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch
import uvicorn

from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.data import Tokenizer
from plait.explore.explored_model import ExploredModel
from plait.explore.server import application
from plait.model import LanguageModel
from plait.sharing import Sharing

TEXTS = ["def walk(depth):\n    return depth + 1\n", "The strands of a plait cross, and come back."]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(tokenizer: Tokenizer, sharing: Sharing, seed: int = 0) -> LanguageModel:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        depth=5,
        width=32,
        context=256,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=6, width=16, top_k=2),
        sharing=sharing,
    )
    return LanguageModel(config, seed).eval()


@pytest.fixture(scope="session")
def models() -> list[ExploredModel]:
    """One that shares, a plain one with the same tokenizer, and one that cuts text otherwise."""
    tokenizer, finer = (Tokenizer.train(TEXTS * 3, size) for size in (320, 270))
    woven = Sharing(experts="1 + 1x3 + 1", router="blocks(3)", decision="3 + 1x2")
    return [
        ExploredModel("woven", model(tokenizer, woven), tokenizer, tokenizer.end_of_text),
        ExploredModel("plain", model(tokenizer, Sharing(), 1), tokenizer, tokenizer.end_of_text),
        ExploredModel(
            "finer", model(finer, Sharing(experts="(2x2) + 1"), 2), finer, finer.end_of_text
        ),
    ]


@pytest.fixture(scope="session")
def address(models: list[ExploredModel]) -> Iterator[str]:
    """A server of the page in this process, as http://host:port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = application(models)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
