"""Studies: grids of runs over variants and seeds, and their comparison."""
