"""The training loop and its parts: objective, optimiser, state, step, checkpoints, metrics."""
