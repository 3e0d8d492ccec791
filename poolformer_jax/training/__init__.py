"""The training loop and its parts: optimiser, sharding, state, step, checkpoints, metrics."""
