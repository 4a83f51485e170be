"""Studies: grids of runs over variants and seeds, their statistics and their tables."""
