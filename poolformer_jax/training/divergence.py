"""The error of a run that has diverged; apart, so that a binary can name it without loading JAX."""


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row had to be skipped."""
