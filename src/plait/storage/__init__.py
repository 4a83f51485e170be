"""What is on disk: runs and what is in their folders, models, weights, checkpoints."""
