"""Evaluates long random clips in chunks; prints the process's peak of memory as JSON.

    python -m tests.evals.likelihood.measure_memory LENGTH CHUNK_LENGTH

Run in a process of its own: a peak never falls. Clips come through the data pipeline, parameters
are random. LENGTH and CHUNK_LENGTH are in samples.
"""

import os

# As a user's process: one device, all optimisations, whatever the tests have set.
os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}

import json
import pathlib
import re
import sys

import jax
import numpy as np

from poolformer_jax import sharding
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.pipeline import eval_batches
from poolformer_jax.evals.likelihood.evaluator import make_likelihood_evaluator
from poolformer_jax.layers.mixer_config import RGLRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig

MODEL = PoolformerConfig(
    width=32,
    mixer=RGLRUConfig(recurrent_width=64, num_gate_blocks=8),
    pool_factors=(4, 4, 10),
    layers=(0, 0, 1, 1),
    platform="cpu",
).build()
CLIPS = 4


def make_clip(index, length):
    """A random walk that is pulled to silence."""
    steps = np.random.default_rng(index).normal(0, 500, length)
    return {"audio": np.clip(np.cumsum(steps) - np.cumsum(steps).mean(), -3e4, 3e4).astype("<i2")}


def main(length, chunk_length):
    source = [make_clip(index, length) for index in range(CLIPS)]
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    evaluate = make_likelihood_evaluator(MODEL, mesh, chunk_length=chunk_length)
    batches = eval_batches(source, DataConfig(seq_len=length), batch_size=2)
    likelihood = evaluate(MODEL.init_params(jax.random.key(0)), batches)
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    print(json.dumps({"peak_bytes": 1024 * int(peak.group(1)), **likelihood.summary()}))


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
