"""Making a model watchable, whichever kind it is."""

from torch import nn

from plait.model import LanguageModel
from plait.routing.watched_model import WatchedModel
from plait.routing.watched_plait import WatchedPlait
from plait.routing.watched_transformers import WatchedTransformers


def watch(model: nn.Module, name: str = "model", tokenizer: str = "unknown") -> WatchedModel:
    """Wrap a model: ours, ours inside a Hugging Face class, or a transformers MoE.

    Raises:
        ValueError: no router is recognised, with what was looked for and what was found.
    """
    for module in model.modules():
        if isinstance(module, LanguageModel):
            return WatchedPlait(module, name, tokenizer)
    return WatchedTransformers(model, name, tokenizer)
