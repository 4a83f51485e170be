"""Routing analysis: traces of real forwards, path metrics, perturbations and figures.

Works on our models and on transformers MoE models alike; `docs/routing.md` defines the metrics.
"""

from plait.routing.measured import Measured, Resampler
from plait.routing.record import Passage, record, trace_model, trace_to_file
from plait.routing.subject import Subject, watch
from plait.routing.trace import (
    Trace,
    TraceInfo,
    TraceWriter,
    read_info,
    read_parts,
    read_trace,
)

__all__ = [
    "Measured",
    "Passage",
    "Resampler",
    "Subject",
    "Trace",
    "TraceInfo",
    "TraceWriter",
    "read_info",
    "read_parts",
    "read_trace",
    "record",
    "trace_model",
    "trace_to_file",
    "watch",
]
