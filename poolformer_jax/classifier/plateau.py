"""A learning rate that falls when the validation loss does not."""

from __future__ import annotations

import math
from typing import NamedTuple

# A loss counts as lower from this fraction on.
_THRESHOLD = 1e-4


class Plateau(NamedTuple):
    """Where the schedule stands.

    Attributes:
      best: Lowest loss so far.
      bad_epochs: Epochs since then, or since the rate was lowered.
      reductions: How often the rate was lowered.

    Source: `torch.optim.lr_scheduler.ReduceLROnPlateau` with the default threshold.
    """

    best: float = math.inf
    bad_epochs: int = 0
    reductions: int = 0

    def after(self, loss: float, *, patience: int) -> Plateau:
        """The schedule after one more epoch.

        Args:
          loss: Of the validation clips.
          patience: Epochs without a lower loss that are put up with; the next one lowers the rate.
        """
        if loss < self.best * (1.0 - _THRESHOLD):
            return self._replace(best=loss, bad_epochs=0)
        if self.bad_epochs < patience:
            return self._replace(bad_epochs=self.bad_epochs + 1)
        return self._replace(bad_epochs=0, reductions=self.reductions + 1)
