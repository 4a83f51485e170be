"""Studies: grids of runs over variants and seeds, their statistics and their tables."""

from plait.studies.runner import run
from plait.studies.show import show
from plait.studies.study import Study

__all__ = ["Study", "run", "show"]
