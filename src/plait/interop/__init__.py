"""Hugging Face both ways; importing this makes transformers' auto classes know Plait models."""

from transformers import AutoConfig, AutoModelForCausalLM

from plait.interop import experts
from plait.interop.configuration import PlaitConfig
from plait.interop.modeling import PlaitForCausalLM

__all__ = ["PlaitConfig", "PlaitForCausalLM"]

AutoConfig.register(PlaitConfig.model_type, PlaitConfig, exist_ok=True)
AutoModelForCausalLM.register(PlaitConfig, PlaitForCausalLM, exist_ok=True)
experts.register()
