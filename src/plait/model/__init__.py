"""The model: a walk over depth that picks each part from a bank."""

from plait.model.attending import KVCache
from plait.model.language_model import LanguageModel, Output
from plait.model.parameters import OwnedParameter
from plait.model.routing import Routing

__all__ = ["KVCache", "LanguageModel", "Output", "OwnedParameter", "Routing"]
