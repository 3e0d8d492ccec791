"""Trains the same model on 1 and on 8 virtual CPU devices; prints how they differ as JSON.

Run in a process of its own: the number of devices is fixed when jax starts.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import dataclasses
import functools
import json

import jax
import numpy as np

from poolformer_jax import sharding
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step
from tests.training.tiny import MODEL, TRAIN, make_batch

MODEL = dataclasses.replace(MODEL, dropout=0.2)
TRAIN = dataclasses.replace(TRAIN, batch_size=16, grad_accum_steps=2)


def train_on(devices):
    mesh = sharding.make_mesh(devices)
    init = functools.partial(init_train_state, MODEL, TRAIN)
    abstract = sharding.abstract_state(mesh, init)
    step = sharding.jit_train_step(make_train_step(MODEL, TRAIN), mesh, abstract)
    state, losses = sharding.init_sharded(mesh, init), []
    for index in range(5):
        batch = sharding.put_batch(mesh, make_batch(index, TRAIN.batch_size))
        assert len(batch["tokens"].addressable_shards) == len(devices)
        state, metrics = step(state, batch)
        losses.append(float(metrics["bits_per_sample"]))
    return losses, jax.tree.map(np.asarray, state.params)


def start_state_of(model):
    return jax.jit(functools.partial(init_train_state, model, TRAIN))().params


def subtract(a, b):
    return jax.tree.map(np.subtract, a, b)


def norm(tree):
    """Euclidean norm of all leaves together."""
    return float(
        np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))
    )


def main():
    one_losses, one = train_on(jax.devices()[:1])
    all_losses, all_devices = train_on(jax.devices())
    start = jax.tree.map(np.asarray, start_state_of(MODEL))
    result = {
        "devices": len(jax.devices()),
        "losses": all_losses,
        "loss_difference": max(
            abs(a - b) / abs(a) for a, b in zip(one_losses, all_losses, strict=True)
        ),
        "parameter_difference": norm(subtract(one, all_devices)) / norm(one),
        "update_difference": norm(subtract(one, all_devices)) / norm(subtract(one, start)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
