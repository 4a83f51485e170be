"""The report of traced models: where tokens go, and what that says."""
