"""transformers' own common tests for models (`ModelTesterMixin`), on exported models.

They stand in transformers' source archive on PyPI, folder `tests/`, and TRANSFORMERS_SOURCE names
where that was unpacked. The archive lacks `tests/generation` and `tests/exporters`, so what would
be inherited from there is empty here, and is not tested.
"""

import copy
import os
import sys
import types
import unittest
from pathlib import Path

from transformers import AutoConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto import modeling_auto

sys.path.insert(0, os.environ["TRANSFORMERS_SOURCE"])
for module, mixin in (
    ("tests.generation.test_utils", "GenerationTesterMixin"),
    ("tests.exporters.test_export", "ExportTesterMixin"),
):
    stand_in = types.ModuleType(module)
    setattr(stand_in, mixin, type(mixin, (), {}))
    sys.modules[module.rpartition(".")[0]] = types.ModuleType(module.rpartition(".")[0])
    sys.modules[module] = stand_in

from tests.test_modeling_common import ModelTesterMixin, ids_tensor  # noqa: E402

EXPORTED = Path(os.environ["PLAIT_EXPORTED"])
NAMES = ("PlaitModel", "PlaitForCausalLM", "PlaitForSequenceClassification")
modeling_auto.MODEL_MAPPING_NAMES["plait"] = NAMES[0]
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["plait"] = NAMES[1]
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["plait"] = NAMES[2]


class Tester:
    """Makes inputs for the mixin."""

    def __init__(self, folder):
        self.config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        self.batch_size, self.seq_length, self.is_training = 3, 7, True
        self.hidden_size = self.config.hidden_size
        self.num_hidden_layers = self.config.num_hidden_layers
        self.num_attention_heads = self.config.num_attention_heads

    def get_config(self):
        return copy.deepcopy(self.config)

    def prepare_config_and_inputs_for_common(self):
        tokens = ids_tensor([self.batch_size, self.seq_length], self.config.vocab_size - 2) + 1
        return self.get_config(), {"input_ids": tokens, "attention_mask": tokens.clamp(0, 1)}


def common_test(folder):
    classes = (get_class_from_dynamic_module(f"modeling_plait.{n}", folder) for n in NAMES)
    members = {
        "all_model_classes": tuple(classes),
        "test_generation_tester_mixin_inheritance": None,  # not in the archive
        "test_all_params_have_gradient": False,  # an expert may get no token
        "setUp": lambda self: setattr(self, "model_tester", Tester(folder)),
    }
    return type(f"Test_{folder.name}", (ModelTesterMixin, unittest.TestCase), members)


for _folder in sorted(EXPORTED.iterdir()):
    _class = common_test(_folder)
    globals()[_class.__name__] = _class
del _class
