"""A loop of tiny steps as one kernel on CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


def one_kernel(f: Callable[..., Any]) -> Callable[..., Any]:
    """Has XLA compile `f` for CPU into one function of machine code; elsewhere it changes nothing.

    XLA starts each operation of a loop's body as a task of its own, which takes longer than the
    arithmetic of one step of a recurrence. XLA's own pass for small loops marks them in the same
    way; a version that does not know the mark compiles `f` as usual. The kernel runs on one core.

    Args:
      f: From arrays to arrays, all of which it uses; of loops and elementwise operations.
    """

    def unmarked(*args: Any) -> Any:
        with set_xla_metadata(xla_cpu_small_call=None, inlineable=None):
            return f(*args)

    compiled = jax.jit(unmarked)

    def marked(*args: Any) -> Any:
        with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
            return compiled(*args)

    @functools.wraps(f)
    def call(*args: Any) -> Any:
        return jax.lax.platform_dependent(*args, cpu=marked, default=f)

    return call
