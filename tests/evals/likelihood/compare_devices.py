"""Evaluates the same clips on 1 and on 8 virtual CPU devices; prints how they differ as JSON.

Run in a process of its own: the number of devices is fixed when jax starts.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import dataclasses
import functools
import json
import logging

import jax
import numpy as np

from poolformer_jax import sharding
from poolformer_jax.evals.likelihood.evaluator import make_chunk_scorer, make_likelihood_evaluator
from poolformer_jax.models.poolformer.model import init_params, init_state
from tests.training.tiny import LENGTH, MODEL, make_batch

MODEL = dataclasses.replace(MODEL, num_codes=256, initial_code=128)
CHUNK_LENGTH = 4


class Compilations(logging.Handler):
    """How often the program of a chunk was compiled."""

    def __init__(self):
        super().__init__()
        self.programs = 0

    def emit(self, record):
        self.programs += "Compiling jit(score)" in record.getMessage()


def evaluate_on(devices, params):
    mesh = sharding.make_mesh(devices)
    evaluate = make_likelihood_evaluator(
        MODEL,
        put_batch=functools.partial(sharding.put_batch, mesh),
        chunk_length=CHUNK_LENGTH,
        state_sharding=sharding.replicated(mesh),
    )
    clips = make_batch(0, batch_size=24)
    clips["lengths"][20:] = 0
    batches = [
        {name: array[start : start + 8] for name, array in clips.items()}
        | {"indices": np.arange(start, start + 8, dtype=np.int32)}
        for start in (0, 8, 16)
    ]
    return evaluate(jax.device_put(params, sharding.replicated(mesh)), batches)


def temporary_bytes(devices, params, length=1_600):
    mesh = sharding.make_mesh(devices)
    replicated = sharding.replicated(mesh)

    def place(tree, where):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)

    tokens = jax.ShapeDtypeStruct((8, length), "int32")
    score = jax.jit(make_chunk_scorer(MODEL), out_shardings=(replicated, None))
    program = score.lower(
        place(params, replicated),
        place(jax.eval_shape(lambda: init_state(MODEL, 8)), replicated),
        place(tokens, sharding.batch_sharding(mesh)),
    ).compile()
    return program.memory_analysis().temp_size_in_bytes


def main():
    params = init_params(MODEL, jax.random.key(0))
    one = evaluate_on(jax.devices()[:1], params)
    compilations = Compilations()
    logging.getLogger("jax").addHandler(compilations)
    with jax.log_compiles():
        all_devices = evaluate_on(jax.devices(), params)
    bits = [result.clip_bits / result.clip_samples for result in (one, all_devices)]
    assert LENGTH > 2 * CHUNK_LENGTH  # The state is carried more than once.
    result = {
        "devices": len(jax.devices()),
        "num_clips": len(all_devices.clip_bits),
        "greatest_difference_of_a_clip": float(np.abs(bits[0] - bits[1]).max()),
        "programs": compilations.programs,
        "temporary_bytes_of_one": temporary_bytes(jax.devices()[:1], params),
        "temporary_bytes_of_eight": temporary_bytes(jax.devices(), params),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
