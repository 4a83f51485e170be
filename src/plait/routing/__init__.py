"""Routing analysis: traces of real forwards, metrics with their chance values, perturbations.

Works on our models and on transformers MoE models alike; `docs/routing.md` defines the metrics.
"""

from plait.routing.record import Passage, record, trace_model, trace_to_file
from plait.routing.trace import (
    Trace,
    TraceInfo,
    TraceWriter,
    read_info,
    read_parts,
    read_trace,
)
from plait.routing.watched_model import WatchedModel
from plait.routing.watching import watch

__all__ = [
    "Passage",
    "Trace",
    "TraceInfo",
    "TraceWriter",
    "WatchedModel",
    "read_info",
    "read_parts",
    "read_trace",
    "record",
    "trace_model",
    "trace_to_file",
    "watch",
]
