"""Trains the same classifier on 1 and on 8 virtual CPU devices; prints how they differ as JSON.

Run in a process of its own, like compare_devices, which sets the number of devices.
"""

from tests.training.compare_devices import norm, subtract  # isort: skip (sets the devices)

import functools
import json

import jax
import numpy as np

from poolformer_jax import sharding
from poolformer_jax.classifier.step import init_classifier_state, make_classifier_step
from tests.classifier.tiny_classifier import AUGMENT, MODEL, TRAIN, make_audio_batch


def train_on(devices):
    mesh = sharding.make_mesh(devices)
    init = functools.partial(init_classifier_state, MODEL, TRAIN)
    abstract = sharding.abstract_state(mesh, init)
    map_rows = functools.partial(sharding.map_rows, mesh)
    pure_step = make_classifier_step(MODEL, TRAIN, AUGMENT, map_rows=map_rows)
    step = sharding.jit_train_step(pure_step, mesh, abstract)
    state, losses = sharding.init_sharded(mesh, init), []
    for index in range(3):
        batch = sharding.put_batch(mesh, make_audio_batch(index, batch_size=8))
        assert len(batch["audio"].addressable_shards) == len(devices)
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, jax.tree.map(np.asarray, (state.params, state.stats))


def main():
    one_losses, one = train_on(jax.devices()[:1])
    all_losses, all_devices = train_on(jax.devices())
    start = jax.tree.map(np.asarray, jax.jit(lambda: init_classifier_state(MODEL, TRAIN))())
    moved = subtract(one, (start.params, start.stats))
    result = {
        "devices": len(jax.devices()),
        "losses": all_losses,
        "loss_difference": max(
            abs(a - b) / abs(a) for a, b in zip(one_losses, all_losses, strict=True)
        ),
        "update_difference": [
            norm(subtract(a, b)) / norm(c) for a, b, c in zip(one, all_devices, moved, strict=True)
        ],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
