"""Recipes: the papers' configurations and ours, as plain functions."""
