"""Optimisers: Muon over banks, parameter groups by role, schedules in tokens."""
