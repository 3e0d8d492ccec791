"""Notices that a run is to stop, so that it can save first."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """True once SIGTERM (preemption) or SIGINT (Ctrl-C) has arrived.

    A second signal of the kind acts as usual. With `jax.distributed` the processes agree on the
    step at which they stop; JAX listens to SIGTERM itself then.
    """

    def __init__(self):
        self._received: signal.Signals | None = None
        self._previous: dict[int, Any] = {}
        self._distributed = jax.distributed.is_initialized()
        if not self._distributed:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)

    def at_step(self, step: int) -> bool:
        """Whether to stop at this step; every process must ask at every step."""
        if self._distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._received is not None

    def received(self) -> bool:
        """Whether this process has had a signal: for work that can be cut short alone."""
        return self._received is not None

    def restore_handlers(self) -> None:
        """Gives the signals back to whoever handled them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._previous = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        # Logging is not safe in a handler: the loop says what is going on.
        self._received = signal.Signals(number)
        signal.signal(number, self._previous[number] or signal.SIG_DFL)
