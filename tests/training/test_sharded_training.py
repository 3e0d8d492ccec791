"""One device and eight train alike, with parameters replicated or really sharded."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from poolformer_jax import sharding
from poolformer_jax.training.metrics_file import read_metrics
from poolformer_jax.training.trainer import Trainer
from tests.training.tiny import MODEL, TRAIN, make_batch, make_objective

OBJECTIVE = make_objective(dataclasses.replace(MODEL, dropout=0.2))
CONFIG = dataclasses.replace(TRAIN, batch_size=16)
SHARDED = (
    (r"head.*kernel", P(sharding.DATA_AXIS)),
    (r"input_projection.*kernel", P(None, None, sharding.DATA_AXIS)),
    *sharding.PARAMETER_RULES,
)


def train_on(num_devices, workdir, parts, rules=sharding.PARAMETER_RULES):
    config = dataclasses.replace(CONFIG, grad_accum_steps=parts)

    def batches(start_example):
        for index in range(start_example // CONFIG.batch_size, 5):
            yield make_batch(index, CONFIG.batch_size)

    workdir.mkdir()

    def start():
        mesh = sharding.make_mesh(jax.devices()[:num_devices])
        options = {"mesh": mesh, "batches": batches, "workdir": workdir, "rules": rules}
        return Trainer(OBJECTIVE, config, **options)

    with start() as trainer:
        for _ in range(3 if num_devices > 1 else 5):
            trainer.take_step()
        trainer.save()
    if num_devices > 1:
        with start() as trainer:  # Restored as it was sharded.
            for _ in range(2):
                trainer.take_step()
            trainer.collect()
    kernel = trainer.state.params["head"]["projection"]["kernel"]
    share = num_devices if rules is SHARDED else 1
    assert kernel.addressable_shards[0].data.size == kernel.size // share
    rows, _ = read_metrics(workdir / "metrics.jsonl")
    losses = np.array([row["bits_per_sample"] for row in rows if row["kind"] == "train"])
    return losses, jax.tree.map(np.asarray, trainer.state.params)


def norm(tree):
    """Euclidean norm of all leaves together."""
    return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))


@pytest.mark.parametrize(
    ("parts", "rules"),
    [
        pytest.param(2, sharding.PARAMETER_RULES, id="split", marks=pytest.mark.slow),
        pytest.param(None, SHARDED, id="clip by clip, sharded"),
    ],
)
def test_eight_devices_train_like_one(tmp_path, parts, rules):
    one = train_on(1, tmp_path / "one", parts)
    losses, params = train_on(8, tmp_path / "eight", parts, rules)
    assert len(set(losses.tolist())) == 5
    np.testing.assert_allclose(losses, one[0], rtol=1e-6)
    difference = norm(jax.tree.map(np.subtract, params, one[1]))
    assert difference <= 1e-6 * norm(one[1])
    # How far the parameters moved, not how large they are: other dropout masks on other devices,
    # or a mean of means, would show as 0.01 and more. (Adam amplifies small gradients' rounding.)
    start = OBJECTIVE.model.init_params(jax.random.key(CONFIG.seed))
    assert difference <= 1e-4 * norm(jax.tree.map(np.subtract, one[1], start))
