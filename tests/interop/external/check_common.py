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

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
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
from tests.test_training_mixin import TrainingTesterMixin  # noqa: E402

EXPORTED = Path(os.environ["PLAIT_EXPORTED"])
FOLDERS = sorted(EXPORTED.iterdir())
CONFIG = AutoConfig.from_pretrained(FOLDERS[0], trust_remote_code=True).__class__
CLASSES = {}
AutoConfig.register("plait", CONFIG)
for auto, mapping, name in (
    (AutoModel, modeling_auto.MODEL_MAPPING_NAMES, "PlaitModel"),
    (AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "PlaitForCausalLM"),
    (
        AutoModelForSequenceClassification,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "PlaitForSequenceClassification",
    ),
):
    CLASSES[name] = get_class_from_dynamic_module(f"modeling_plait.{name}", FOLDERS[0])
    auto.register(CONFIG, CLASSES[name])
    mapping["plait"] = name  # by which the tests know what inputs a class takes


class Tester:
    """Makes inputs for the mixins."""

    causal_lm_class = CLASSES["PlaitForCausalLM"]

    def __init__(self, folder):
        self.config = CONFIG.from_pretrained(folder, pad_token_id=0)
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
    members = {
        "model_tester": None,
        "all_model_classes": tuple(CLASSES.values()),
        "test_generation_tester_mixin_inheritance": None,  # not in the archive
        "test_num_layers_is_small": None,  # banks are shared over four depths
        "test_all_params_have_gradient": False,  # an expert may get no token
        "setUp": lambda self: setattr(self, "model_tester", Tester(folder)),
    }
    bases = ModelTesterMixin, TrainingTesterMixin, unittest.TestCase
    return type(f"Test_{folder.name}", bases, members)


for _folder in FOLDERS:
    _class = common_test(_folder)
    globals()[_class.__name__] = _class
del _class
