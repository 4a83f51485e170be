"""Downstream tasks, through lm-eval."""
