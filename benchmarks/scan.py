"""What do the implementations of the recurrence cost, in seconds here and in bytes on a TPU?

    python -m benchmarks.scan
    python -m benchmarks.scan --tpu=v5e

`linear_scan` is the bare recurrence with complex states, `rg_lru` the one with its gates. Forward,
and forward with backward: values and the gradients of all inputs that have a time axis. Times are
measured in turns. Bytes are those of HBM, beside the least: each input read once, each result
written once, by a forward and a backward pass that share nothing but the states.
"""

from __future__ import annotations

import itertools
import math
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import tpu
from benchmarks.side_by_side import define_out, define_rounds, publish, time_programs
from launch import command_line
from poolformer_jax.layers.config import KERNEL_PLATFORMS
from poolformer_jax.ops.rg_lru import rg_lru
from poolformer_jax.ops.scan import linear_scan
from poolformer_jax.typing import Planes

_FLAGS = flags.FlagValues()
_FUNCTIONS = flags.DEFINE_multi_enum(
    "function",
    ["linear_scan", "rg_lru"],
    ["linear_scan", "rg_lru"],
    "Which; may be repeated.",
    flag_values=_FLAGS,
)
_IMPLEMENTATIONS = flags.DEFINE_list(
    "implementations", [], "Which; all that the function knows if empty.", flag_values=_FLAGS
)
_SHAPES = flags.DEFINE_list(
    "shapes", None, "Clips x steps x complex channels: 4x16000x128.", flag_values=_FLAGS
)
_DTYPES = flags.DEFINE_list("dtypes", ["float32"], "Of the arrays.", flag_values=_FLAGS)
_ROUNDS = define_rounds(_FLAGS)
_SECONDS = flags.DEFINE_float("seconds", 0.2, "Of each turn, about.", flag_values=_FLAGS)
_TPU = tpu.define_tpu(_FLAGS)
_OUT = define_out(_FLAGS)

# Arrays of [b, t, c] that must be read or written: of the forward pass, and of both.
_LEAST = {"linear_scan": (6, 16), "rg_lru": (6, 16)}


def main(argv):
    """Measures or compiles, prints."""
    del argv
    default = ["4x16000x128"] if _TPU.value else ["1x16000x128", "4x4000x128", "4x2000x32"]
    shapes = [tuple(map(int, text.split("x"))) for text in _SHAPES.value or default]
    cases = list(itertools.product(_FUNCTIONS.value, _DTYPES.value, shapes, (False, True)))
    rows: list[dict[str, Any]] = []
    for function, dtype, shape, backward in cases:
        names = _IMPLEMENTATIONS.value or implementations_of(function)
        common = {
            "function": function,
            "type": dtype,
            "shape": "x".join(map(str, shape)),
            "pass": "forward + backward" if backward else "forward",
        }
        programs = {name: _program(function, name, backward) for name in names}
        if _TPU.value:
            values = _compile(programs, function, shape, dtype, backward)
        else:
            values = _time(programs, function, shape, dtype)
        rows += [{**common, "implementation": name, **row} for name, row in values.items()]
    publish("scan", {f"Recurrences on {_TPU.value or jax.default_backend()}": rows}, _OUT.value)


def implementations_of(function: str) -> list[str]:
    """The names that a function accepts, as its annotation says."""
    hint = typing.get_type_hints(globals()[function])["implementation"]

    def names(hint: Any) -> list[str]:
        return [
            name
            for one in typing.get_args(hint)
            for name in ([one] if isinstance(one, str) else names(one))
        ]

    # Without gates there is nothing to fuse: the same kernel.
    return [name for name in names(hint) if (function, name) != ("linear_scan", "fused")]


def _arrays(function: str, shape: tuple[int, ...], dtype: str) -> list[jax.ShapeDtypeStruct]:
    """Descriptions of the inputs, followed by the gradients of the states."""
    b, t, c = shape
    widths = [c] * 6 if function == "linear_scan" else [2 * c, 2 * c, 2 * c]
    return [jax.ShapeDtypeStruct((b, t, width), jnp.dtype(dtype)) for width in widths]


def _program(function: str, implementation: Any, backward: bool) -> Callable[..., Any]:
    """(inputs..., gradients of the states) -> states, with backward the inputs' gradients too."""

    def scan(*inputs):
        if function == "linear_scan":
            real, imag, x_real, x_imag = inputs
            h, _ = linear_scan(
                Planes(real, imag), Planes(x_real, x_imag), implementation=implementation
            )
            return h.real, h.imag
        u, gates = inputs
        channels = gates.shape[-1] // 2
        zeros = jnp.zeros((u.shape[0], channels), jnp.float32)
        return rg_lru(
            u,
            gates,
            log_decay=jnp.linspace(-1.0, -0.01, channels),
            theta=jnp.linspace(0.0, 0.3, channels),
            h0=Planes(zeros, zeros),
            implementation=implementation,
        )[:1]

    def run(*arguments):
        num_inputs = 4 if function == "linear_scan" else 2
        inputs, gradients = arguments[:num_inputs], arguments[num_inputs:]
        if not backward:
            return scan(*inputs)
        h, pull = jax.vjp(scan, *inputs)
        return h, pull(gradients)

    return run


def _time(programs, function, shape, dtype) -> dict[str, dict[str, Any]]:
    keys = jax.random.split(jax.random.key(0), 6)
    arrays = [
        0.6 * jax.random.uniform(key, array.shape, jnp.float32).astype(array.dtype)
        for key, array in zip(keys, _arrays(function, shape, dtype), strict=False)
    ]
    here = jax.default_backend()
    platforms = {name: KERNEL_PLATFORMS.get(name, here) for name in programs}
    possible = {name: programs[name] for name in programs if platforms[name] == here}
    rows = time_programs(possible, arrays, _ROUNDS.value, _SECONDS.value)
    return {
        name: rows.get(name, {"not possible": f"a kernel for {platform}"})
        for name, platform in platforms.items()
    }


def _compile(programs, function, shape, dtype, backward) -> dict[str, dict[str, Any]]:
    least = _LEAST[function][backward] * math.prod(shape) * jnp.dtype(dtype).itemsize
    rows = tpu.compile_programs(_TPU.value, programs, _arrays(function, shape, dtype))
    for row in rows.values():
        row.pop("TFLOP", None)  # Those of matrix products, of which there are none.
        if "HBM, MB" in row:
            row["x least"] = 1e6 * row["HBM, MB"] / least
    return rows


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
