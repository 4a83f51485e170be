"""Evaluation: held-out loss by domain, and downstream tasks."""
