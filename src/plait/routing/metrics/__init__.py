"""Pure functions from a trace to figures, each with its chance value, sample size and interval.

`docs/routing.md` has the formulas. Every function takes the trace and a `Resampler` over its
documents, so that all metrics of one trace share their resamples.
"""
