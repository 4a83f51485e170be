"""The report of a study: which structure did better, by how much, how sure, how measured."""
