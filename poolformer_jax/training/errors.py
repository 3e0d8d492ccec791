"""Errors that end a run and are no mistake of the code; apart, so that naming them loads no JAX."""


class TrainingError(RuntimeError):
    """A run cannot go on; binaries print the message without a traceback."""


class TrainingDivergedError(TrainingError):
    """Too many steps in a row had to be skipped, or all of them."""


class DamagedCheckpointError(TrainingError):
    """What was read is not what was saved."""
