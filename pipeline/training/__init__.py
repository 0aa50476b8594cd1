"""Training: the data plan, batches, objectives, schedule, loop and checkpoint."""
