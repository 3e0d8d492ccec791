"""One device and eight train alike, with parameters replicated or really sharded."""

import dataclasses

import jax
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.mesh_config import MeshConfig
from poolformer_jax.training.metrics_file import read_metrics
from poolformer_jax.training.trainer import Trainer
from tests.training.tiny import MODEL, TRAIN, make_batch, make_objective

CONFIG = dataclasses.replace(TRAIN, batch_size=16)


def train_on(mesh, workdir, objective, parts, optimizer):
    config = dataclasses.replace(CONFIG, grad_accum_steps=parts, optimizer=optimizer)

    def batches(start_example):
        for index in range(start_example // CONFIG.batch_size, 5):
            yield make_batch(index, CONFIG.batch_size)

    workdir.mkdir()

    def start():
        options = {"mesh": mesh, "batches": batches, "workdir": workdir}
        return Trainer(objective, config, rules=objective.model.parameter_rules, **options)

    with start() as trainer:
        for _ in range(3 if mesh.size > 1 else 5):
            trainer.take_step()
        trainer.save()
    if mesh.size > 1:
        with start() as trainer:  # Restored as it was sharded.
            for _ in range(2):
                trainer.take_step()
            trainer.collect()
    kernel = trainer.state.params["head"]["projection"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // mesh.shape[sharding.FSDP]
    rows, _ = read_metrics(workdir / "metrics.jsonl")
    losses = np.array([row["bits_per_sample"] for row in rows if row["kind"] == "train"])
    return losses, jax.tree.map(np.asarray, trainer.state.params)


def norm(tree):
    """Euclidean norm of all leaves together."""
    return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "sizes", "dropout", "optimizer"),
    [
        pytest.param(2, {"fsdp": 4}, 0.2, "adamw", id="split", marks=pytest.mark.nightly),
        pytest.param(None, {"fsdp": 4}, 0.2, "muon", id="clip by clip"),
        # Masks of parts of clips are others.
        pytest.param(None, {"fsdp": 2, "sequence": 2}, 0.0, "adamw", id="along time"),
    ],
)
def test_eight_devices_train_like_one(tmp_path, parts, sizes, dropout, optimizer):
    # With weights the loss that is printed is another sum than that of the gradient. Samples that
    # the model draws are the same on all meshes.
    objective = dataclasses.replace(
        make_objective(dataclasses.replace(MODEL, dropout=dropout)),
        onset_weight=2.0,
        sampled_inputs=0.5,
    )
    single = sharding.make_mesh(devices=jax.devices()[:1])
    one = train_on(single, tmp_path / "one", objective, parts, optimizer)
    eight = sharding.make_mesh(MeshConfig(**sizes))
    losses, params = train_on(eight, tmp_path / "eight", objective, parts, optimizer)
    assert len(set(losses.tolist())) == 5
    np.testing.assert_allclose(losses, one[0], rtol=1e-6)
    difference = norm(jax.tree.map(np.subtract, params, one[1]))
    assert difference <= 1e-6 * norm(one[1])
    # How far the parameters moved, not how large they are: other dropout masks on other devices,
    # or a mean of means, would show as 0.01 and more. (Adam amplifies small gradients' rounding.)
    start = objective.model.init_params(jax.random.key(CONFIG.seed))
    assert difference <= 1e-4 * norm(jax.tree.map(np.subtract, one[1], start))
