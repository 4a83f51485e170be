"""The page of a paper: its claims as they came out, its tables and figures as ours."""
