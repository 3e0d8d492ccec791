"""What do the ways to run a state space cost, in seconds here and in bytes on a TPU?

    python -m benchmarks.state_space
    python -m benchmarks.state_space --tpu=v5e

Chunks of several sizes and the Fourier transform, of S4 and of S4D with 64 real numbers of state a
channel: outputs, and with the backward pass the gradients of inputs and parameters. Times are
measured in turns.

Measured on two cores: docs/baselines.md.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import tpu
from benchmarks.side_by_side import define_out, define_rounds, publish, time_programs
from launch import command_line
from poolformer_jax.ops.state_space import DiagonalSystem, LowRankSystem, System, run
from poolformer_jax.typing import Planes

_FLAGS = flags.FlagValues()
_SYSTEMS = flags.DEFINE_multi_enum(
    "system", ["s4", "s4d"], ["s4", "s4d"], "Which; may be repeated.", flag_values=_FLAGS
)
_CHUNKS = flags.DEFINE_list("chunks", ["64", "128"], "Steps of a chunk.", flag_values=_FLAGS)
_SHAPES = flags.DEFINE_list(
    "shapes",
    ["4x1920x16", "4x480x32", "4x120x64", "1x16000x64"],
    "Clips x steps x channels.",
    flag_values=_FLAGS,
)
_ROUNDS = define_rounds(_FLAGS)
_SECONDS = flags.DEFINE_float("seconds", 0.2, "Of each turn, about.", flag_values=_FLAGS)
_TPU = tpu.define_tpu(_FLAGS)
_OUT = define_out(_FLAGS)

_PAIRS = 32


def main(argv):
    """Measures or compiles, prints."""
    del argv
    shapes = [tuple(map(int, text.split("x"))) for text in _SHAPES.value]
    rows: list[dict[str, Any]] = []
    for shape, system, backward in itertools.product(shapes, _SYSTEMS.value, (False, True)):
        common = {
            "system": system,
            "shape": "x".join(map(str, shape)),
            "pass": "forward + backward" if backward else "forward",
        }
        ways = {f"chunks of {size}": ("chunked", int(size)) for size in _CHUNKS.value}
        programs = {
            name: _program(backward, *way) for name, way in (ways | {"fft": ("fft", 64)}).items()
        }
        if _TPU.value:
            make = functools.partial(_arguments, system, shape, in_loops=True)
            # Arrays would start JAX before it is prepared for another machine's compiler.
            values = tpu.compile_programs(_TPU.value, programs, jax.eval_shape(make))
        else:
            arguments = _arguments(system, shape, in_loops=False)
            values = time_programs(programs, arguments, _ROUNDS.value, _SECONDS.value)
        rows += [{**common, "way": name, **row} for name, row in values.items()]
    publish(
        "state_space", {f"State spaces on {_TPU.value or jax.default_backend()}": rows}, _OUT.value
    )


def _arguments(
    name: str, shape: tuple[int, ...], in_loops: bool
) -> tuple[System, jax.Array, jax.Array]:
    """The system, its inputs, and the gradients of its outputs."""
    keys = jax.random.split(jax.random.key(1))
    inputs, gradients = (jax.random.normal(key, shape) for key in keys)
    return _system(name, shape[2], in_loops), inputs, gradients


def _system(name: str, channels: int, in_loops: bool) -> System:
    """Modes of many frequencies, as after initialisation."""
    keys = iter(jax.random.split(jax.random.key(0), 6))

    def normal() -> jax.Array:
        return 0.1 * jax.random.normal(next(keys), (channels, _PAIRS))

    frequencies = jnp.broadcast_to(3.0 * jnp.arange(_PAIRS), (channels, _PAIRS))
    dt = jnp.full((channels,), 0.01)
    a = Planes(jnp.full((channels, _PAIRS), -0.5), frequencies)
    b, c, p = (Planes(normal(), normal()) for _ in range(3))
    if name == "s4d":
        return DiagonalSystem(dt=dt, a=a, b=b, c=c)
    return LowRankSystem(dt=dt, a=a, p=p, b=b, c=c, in_loops=in_loops)


def _program(backward: bool, method: Any, chunk: int) -> Callable[..., Any]:
    """(system, inputs, gradients of the outputs) -> outputs, and with backward all gradients."""

    def outputs(system, u):
        zeros = jnp.zeros((u.shape[0], u.shape[2], 2 * _PAIRS))
        return run(system, u, zeros, method=method, chunk=chunk)[0]

    def forward_and_backward(system, u, gradients):
        y, pull = jax.vjp(outputs, system, u)
        return y, pull(gradients)

    return forward_and_backward if backward else lambda system, u, _: outputs(system, u)


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
