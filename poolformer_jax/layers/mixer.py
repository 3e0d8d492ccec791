"""What a residual block mixes time with.

A mixer is a Linen module with explicit state. To add one: a file with the module, a configuration
class and its entry in `layers/mixer_config.py`, and its name in the tests that all mixers share.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jax import Array
from jaxtyping import Float

MixerState = Any
"""A tree of arrays whose first axis is the batch; zeros are the start of a sequence."""


@runtime_checkable
class Mixer(Protocol):
    """Maps a sequence to a sequence of the same shape, each step from the steps so far."""

    def __call__(
        self, x: Float[Array, "b t d"], state: MixerState
    ) -> tuple[Float[Array, "b t d"], MixerState]:
        """Runs over x from the state after the steps before; returns (y, state after x)."""
        ...

    def init_state(self, batch: int, width: int) -> MixerState:
        """The state before the first step of inputs [b, t, d] of that width d."""
        ...
