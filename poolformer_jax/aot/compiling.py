"""Compiles a traced program for a chip; one that is too large for its memory is told apart."""

from __future__ import annotations

import re
import time
from typing import Any

from poolformer_jax.aot.chips import Chip
from poolformer_jax.aot.report import ProgramReport, read_program

_NEEDED = re.compile(
    r"(?:Used |total memory required[^()]*\()(\d+(?:\.\d+)?)([KMGT]?)(?:\)| of [\d.]+[KMGT]? hbm)"
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class HbmExceededError(RuntimeError):
    """A program needs more HBM than a chip has.

    Attributes:
      needed_bytes: What it needs, as the compiler says; None if it does not.
    """

    def __init__(self, message: str, needed_bytes: int | None):
        super().__init__(message)
        self.needed_bytes = needed_bytes


def compile_program(traced: Any, chip: Chip) -> tuple[ProgramReport, float]:
    """Lowers, compiles and reads what `jax.jit(...).trace(...)` returns.

    Returns:
      (report, seconds that lowering and compilation took).

    Raises:
      HbmExceededError: If it does not fit into the chip's HBM.
    """
    start = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except RuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message or "hbm" not in message.lower():
            raise  # Too much VMEM in a kernel, for example.
        raise HbmExceededError(message.splitlines()[0], needed_hbm(message)) from error
    seconds = time.perf_counter() - start
    return read_program(compiled, chip), seconds


def needed_hbm(message: str) -> int | None:
    """Bytes of HBM that a program needs, from the compiler's message; None if it does not say."""
    match = _NEEDED.search(message)
    if match is None:
        return None
    number, unit = match.groups()
    return int(float(number) * _UNITS[unit])
