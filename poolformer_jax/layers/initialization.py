"""Draws a network's parameters in a program that compiles in about a second.

Flax derives a key for every parameter and draws each on its own: a program of a hundred random
number generators, which takes XLA ten seconds. Here the keys are computed beforehand, and
parameters with the same initialiser and shape are drawn together. The values are those of
`Module.init`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core.scope import LazyRng
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.typing import DTypeLike

# One object for each initialiser, so that what is drawn alike can be told.
LECUN_NORMAL = nn.initializers.lecun_normal()
uniform = functools.cache(nn.initializers.uniform)


@functools.cache
def torch_uniform(fan_in: int, scale: float = 1.0) -> Callable[..., Array]:
    """Uniform in +-scale / sqrt(fan_in): at 1 PyTorch's default for linear layers, biases too."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        bound = scale * fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


@functools.cache
def scaled_normal(scale: float) -> Callable[..., Array]:
    """Normal with a variance of scale / fan_in."""
    return nn.initializers.variance_scaling(scale, "fan_in", "normal")


@functools.cache
def init_time_step(least: float, largest: float) -> Callable[..., Array]:
    """Draws b so that the logarithm of softplus(b) is uniform in a range, but not below 1e-4."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        log_dt = jax.random.uniform(
            key, shape, dtype, minval=math.log(least), maxval=math.log(largest)
        )
        dt = jnp.maximum(jnp.exp(log_dt), 1e-4)
        return dt + jnp.log(-jnp.expm1(-dt))

    return init


@dataclasses.dataclass(frozen=True)
class Parameter:
    """How a parameter is drawn.

    Attributes:
      path: Of the parameter.
      count: Which key of its module it takes, from 1 on.
      init: From (key, *arguments) to the value.
      arguments: The rest of them, the shape first.
      layers: Length of the leading axis that `nn.scan` adds; None without one.
    """

    path: tuple[str, ...]
    count: int
    init: Callable[..., Array]
    arguments: tuple[Any, ...]
    layers: int | None = None

    def keys(self, key: Array) -> list[Array]:
        """One, or one for each layer, from the key of the network."""
        keys = key[None] if self.layers is None else jax.random.split(key, self.layers)
        # Flax folds the hash of a path in; it splits the key of the network, not that of the path.
        module = self.path[:-1]
        return [LazyRng.create(k, *module, self.count).as_jax_rng() for k in keys]


def list_parameters(module: nn.Module, *inputs: Any) -> list[Parameter]:
    """Finds out, without computing anything, how a network's parameters are drawn.

    Args:
      module: A network whose `nn.scan`s split the key of the parameters.
      inputs: What it is called with.
    """
    with _recorded() as parameters:
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]

    def with_layers(path: tuple[str, ...], shape: tuple[int, ...]) -> Parameter:
        parameter = parameters[path]
        stacked = len(shape) > len(parameter.arguments[0])
        return dataclasses.replace(parameter, layers=shape[0] if stacked else None)

    return [with_layers(path, leaf.shape) for path, leaf in flatten_dict(shapes).items()]


def draw_parameters(parameters: Sequence[Parameter], key: Array) -> dict:
    """Draws what `Module.init` draws with this key."""
    groups = defaultdict(list)
    for parameter in parameters:
        groups[parameter.init, parameter.arguments].append(parameter)

    def draw(keys: Sequence[Array]) -> list[Array]:
        return [
            jax.vmap(lambda k, init=init, rest=rest: init(k, *rest))(
                jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
            )
            for (init, rest), data in zip(groups, keys, strict=True)
        ]

    data = [
        [jax.random.key_data(k) for member in group for k in member.keys(key)]
        for group in groups.values()
    ]
    traced = isinstance(data[0][0], jax.core.Tracer)
    keys = [(jnp if traced else np).stack(rows) for rows in data]
    if traced:
        values = draw(keys)
    else:
        # A CPU's code for random numbers takes long to optimise, and runs once.
        quick: Any = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
        program = jax.jit(draw).lower(keys).compile(compiler_options=quick)
        # Split on the host, for which nothing is compiled.
        values = jax.device_get(program(keys))
    drawn = {}
    for group, rows in zip(groups.values(), values, strict=True):
        end = 0
        for parameter in group:
            start, end = end, end + (parameter.layers or 1)
            drawn[parameter.path] = rows[start if parameter.layers is None else slice(start, end)]
    return unflatten_dict(drawn if traced else jax.device_put(drawn))


@contextlib.contextmanager
def _recorded() -> Iterator[dict[tuple[str, ...], Parameter]]:
    """Notes the parameters that modules make within; Flax has no hook for that."""
    parameters: dict[tuple[str, ...], Parameter] = {}
    make = nn.Module.param

    def param(module: nn.Module, name: str, init: Callable, *arguments: Any, **options: Any) -> Any:
        assert module.scope is not None
        count = module.scope.rng_counters["params"]
        value = make(module, name, init, *arguments, **options)
        if module.scope.rng_counters["params"] > count:  # It is new.
            path = *module.path, name
            rest = tuple(tuple(x) if isinstance(x, list) else x for x in arguments)
            parameters[path] = Parameter(path, count + 1, init, rest)
        return value

    nn.Module.param = param  # type: ignore[assignment,method-assign]
    try:
        yield parameters
    finally:
        nn.Module.param = make  # type: ignore[method-assign]
