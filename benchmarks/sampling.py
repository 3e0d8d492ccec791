"""How fast is generation by stepping the recurrence, beside running whole segments again?

    python -m benchmarks.sampling

Measures samples/s in turns, with random parameters, of three ways to draw the same clips:

- stepping: `StreamingGenerator`, what the library does;
- fixed point: a segment of one centre step (160 samples) is run in parallel, over and over; after
  pass i its first i samples are final, so it takes as many passes as it has samples;
- whole clip: one parallel pass over the clip so far for each sample. The clip has 0.1 s here, which
  flatters this way: a pass over a second takes ten times as long.

After measuring, stepping and fixed point are checked to draw the same codes.

Measured on two cores: the table in docs/sampling.md.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.side_by_side import define_rounds, in_turns, medians, seconds_of
from launch import command_line
from poolformer_jax.config_checks import Platform
from poolformer_jax.experiment.configuration import Experiment, make_experiment
from poolformer_jax.experiment.named import named_config
from poolformer_jax.models.registry import MODELS
from poolformer_jax.models.sequence_model import SequenceModel, count_params
from poolformer_jax.sampling.streaming import StreamingGenerator

_FLAGS = flags.FlagValues()
_MODELS = flags.DEFINE_list(
    "models", ["baseline", "digits"], "Which of these to measure.", flag_values=_FLAGS
)
_BATCHES = flags.DEFINE_list("batches", ["1", "8", "64"], "Clips side by side.", flag_values=_FLAGS)
_ROUNDS = define_rounds(_FLAGS)
_SECONDS = flags.DEFINE_float(
    "seconds", 1.0, "About how long each way runs in a turn.", flag_values=_FLAGS
)

_CLIP = 1_600  # Samples of the clip that is run as a whole.

Way = Callable[[], float]
"""Does some work; returns how many samples of each clip it drew."""


def main(argv):
    """Measures, prints."""
    del argv
    for name in _MODELS.value:
        model = _make_model(name)
        params = jax.block_until_ready(model.init_params(jax.random.key(0)))
        print(f"\n{name}: {count_params(model):,} parameters", flush=True)
        print(f"{'batch':>5} {'stepping':>12} {'fixed point':>22} {'whole clip':>22}  compilation")
        steps = [_measure(model, params, batch) for batch in map(int, _BATCHES.value)]
        _print_weight_traffic(model.config, params, steps)
        _check_same_codes(model, params)


def _make_model(name: str) -> Any:
    """A Poolformer: the parallel ways need its `logits`, the traffic its levels."""
    match name:
        case "baseline":
            config = MODELS["poolformer"]()
        case "digits":
            experiment: Experiment = make_experiment(named_config("digits"))
            config = experiment.model
        case _:
            raise ValueError(f"--models={name}: known are baseline and digits")
    return dataclasses.replace(config, platform=cast(Platform, jax.default_backend())).build()


def _measure(model: Any, params: Any, batch: int) -> float:
    """Prints a row; returns how many steps a second stepping takes."""
    ways = {
        "stepping": _step(model, params, batch),
        "fixed point": _iterate_segment(model, params, batch),
        "whole clip": _run_whole_clip(model, params, batch),
    }
    compilation = {}
    for name, way in ways.items():
        start = time.perf_counter()
        way()
        compilation[name] = time.perf_counter() - start

    def speed_of(way: Way) -> float:
        return batch * way() / seconds_of(way, _SECONDS.value)

    speeds = in_turns(
        {name: functools.partial(speed_of, way) for name, way in ways.items()}, _ROUNDS.value
    )
    median = medians(speeds)
    stepping, spread = median["stepping"], speeds["stepping"]
    others = " ".join(
        f"{median[name]:>10,.1f} ({stepping / median[name]:>6,.0f} x)"
        for name in ("fixed point", "whole clip")
    )
    print(
        f"{batch:>5} {stepping:>12,.0f} {others}  {compilation['stepping']:.0f} s"
        f"   (stepping {min(spread):,.0f} to {max(spread):,.0f} samples/s)",
        flush=True,
    )
    return stepping / batch


def _step(model: SequenceModel, params: Any, batch: int) -> Way:
    stream = StreamingGenerator(model, params, jax.random.key(0), batch, block_samples=160)
    return lambda: next(stream).codes.shape[1]


def _iterate_segment(model: Any, params: Any, batch: int) -> Callable[[], float]:
    run = _fixed_point_pass(model)
    state = model.init_state(batch)
    codes = jnp.zeros((batch, model.chunk_multiple), jnp.int32)
    keys = _clip_keys(batch)

    def way() -> float:
        jax.block_until_ready(run(params, keys, state, codes))
        return 1.0  # A segment of n samples takes n passes.

    return way


def _run_whole_clip(model: Any, params: Any, batch: int) -> Way:
    run = jax.jit(model.logits)
    total = model.chunk_multiple
    codes = jnp.zeros((batch, -(-_CLIP // total) * total), jnp.int32)

    def way() -> int:
        jax.block_until_ready(run(params, codes))
        return 1

    return way


def _clip_keys(batch: int) -> jax.Array:
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(jnp.arange(batch))


@functools.cache
def _fixed_point_pass(model: Any) -> Callable:
    """One pass: the logits of all samples of a segment, and a code drawn from each."""

    @jax.jit
    def run(params, keys, state, codes):
        logits, after = model.logits(params, codes, state)
        times = state.position + jnp.arange(codes.shape[1])
        at_times = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
        now = jax.vmap(at_times, in_axes=(0, None))(keys, times)
        return jax.vmap(jax.vmap(jax.random.categorical))(now, logits).astype(jnp.int32), after

    return run


def _check_same_codes(model: Any, params: Any) -> None:
    """The first segment, by both ways."""
    run, state = _fixed_point_pass(model), model.init_state(1)
    codes = jnp.zeros((1, model.chunk_multiple), jnp.int32)
    for _ in range(model.chunk_multiple):
        codes, _ = run(params, _clip_keys(1), state, codes)
    stream = StreamingGenerator(model, params, jax.random.key(0), 1, block_samples=160)
    stepped = next(stream).codes[:, : model.chunk_multiple]
    np.testing.assert_array_equal(np.asarray(codes), stepped)


def _print_weight_traffic(config: Any, params: Any, steps: list[float]) -> None:
    """Each step needs the weights of the levels it runs, whatever the batch."""
    needed, share, level = 0.0, 1.0, params["backbone"]
    for factor in config.pool_factors:
        inner = level.get("inner", {})
        needed += share * sum(leaf.nbytes for leaf in jax.tree.leaves(level))
        needed -= share * sum(leaf.nbytes for leaf in jax.tree.leaves(inner))
        share, level = share / factor, inner
    needed += share * sum(leaf.nbytes for leaf in jax.tree.leaves(level))
    needed += sum(leaf.nbytes for leaf in jax.tree.leaves(params["head"]))

    weights = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    read = jax.jit(jnp.sum)
    read_all = {"sum": lambda: seconds_of(lambda: read(weights).block_until_ready())}
    sum_rate = weights.nbytes / medians(in_turns(read_all, 50))["sum"]
    traffic = ", ".join(f"{needed * rate / 1e9:.1f}" for rate in steps)
    print(
        f"a step reads {needed / 1e6:.1f} of {weights.nbytes / 1e6:.1f} MB of weights on average: "
        f"{traffic} GB/s in the rows above; a plain sum of all reads {sum_rate / 1e9:.1f} GB/s"
    )


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
