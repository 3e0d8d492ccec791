"""What the trainer knows of what it trains; `SequenceObjective` and the classifier's are two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jax import Array

Batch = Mapping[str, Array]
Params = Any
Statistics = Any
"""What a network carries from step to step beside its parameters; None if it carries nothing."""


@runtime_checkable
class Objective(Protocol):
    """A loss and its evaluation."""

    @property
    def loss_name(self) -> str:
        """Which of the metrics is the loss."""
        ...

    @property
    def plain_sums(self) -> bool:
        """Whether gradients may be summed one by one, less exactly, where that is faster (CPU)."""
        ...

    def init(self, key: Array) -> tuple[Params, Statistics]:
        """Draws the parameters."""
        ...

    def count(self, batch: Batch) -> Array:
        """What the loss of a batch is the mean over: its clips, or their samples."""
        ...

    def loss(
        self, params: Params, statistics: Statistics, batch: Batch, key: Array, count: Array
    ) -> tuple[Array, tuple[Statistics, dict[str, Array]]]:
        """Computes the loss of a batch, or of a part of one.

        Args:
          params: What the gradient is taken of.
          statistics: Those before.
          batch: The part.
          key: Randomness of the part.
          count: Of the whole batch; losses of the parts add up to that of the whole.

        Returns:
          (loss, (statistics after, sums that add up over the parts as the loss does)).
        """
        ...

    def metrics(self, loss: Array, sums: Mapping[str, Array]) -> dict[str, Array]:
        """What to write down of a step."""
        ...

    def evaluate(
        self, params: Params, statistics: Statistics, should_stop: Callable[[], bool]
    ) -> Mapping[str, float] | None:
        """Evaluates on the validation split; None if it was told to stop."""
        ...

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Orders evaluations; the smallest is the best."""
        ...

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Metrics of a step or an evaluation in a few words, for a line of progress."""
        ...
