"""The training loop: evaluate, save, step, until done or asked to stop."""

from __future__ import annotations

from poolformer_jax.training.trainer import Outcome, Trainer


def train(trainer: Trainer) -> Outcome:
    """Trains from scratch, or on from the latest checkpoint.

    Raises:
      TrainingDivergedError: After `max_consecutive_skips` skipped steps in a row, or if all were.
    """
    with trainer:
        while True:
            trainer.check_stop()
            if trainer.evaluation_is_due:
                trainer.evaluate()
            if trainer.checkpoint_is_due():
                trainer.save()
            if trainer.outcome is not None:
                return trainer.conclude()
            trainer.take_step()
