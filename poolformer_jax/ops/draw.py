"""How codes are drawn, in numbers; loads no JAX, so that mistakes in them are told at once."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """How a code is drawn from logits.

    Attributes:
      temperature: Divides the logits; 0 takes the likeliest code, as does less than 1e-6.
      top_k: Only so many of the likeliest codes are drawn; None means all.
      top_p: Of those, only the fewest likeliest ones whose probabilities add up to this; 1 means
        all.
      guidance: Weight w of classifier-free guidance, in a model with classes: logits become
        u + w (c - u), of those with the label (c) and without (u). 1 is no guidance, more than 1
        makes clips more typical of their label.

    Raises:
      ValueError: On construction, for a value that cannot work.

    Source of the guidance: Ho & Salimans 2022, arXiv:2207.12598 (whose weight is w - 1).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0.0):
            raise ValueError(
                f"temperature {self.temperature} must be finite and not negative; 1 is the model's "
                "own, 0 takes the likeliest code"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1, or None for all codes")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p {self.top_p} must be in (0, 1]; 1 means all codes")
        if not (math.isfinite(self.guidance) and self.guidance >= 0.0):
            raise ValueError(
                f"guidance {self.guidance} must be finite and not negative; 1 means none"
            )
