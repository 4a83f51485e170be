"""Hugging Face both ways; importing this makes transformers' auto classes know Plait models."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from plait.interop import experts
from plait.interop.configuration import PlaitConfig
from plait.interop.modeling import PlaitForCausalLM, PlaitForSequenceClassification, PlaitModel

__all__ = ["PlaitConfig", "PlaitForCausalLM", "PlaitForSequenceClassification", "PlaitModel"]

AutoConfig.register(PlaitConfig.model_type, PlaitConfig, exist_ok=True)
AutoModel.register(PlaitConfig, PlaitModel, exist_ok=True)
AutoModelForCausalLM.register(PlaitConfig, PlaitForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    PlaitConfig, PlaitForSequenceClassification, exist_ok=True
)
experts.register()
