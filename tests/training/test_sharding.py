import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from poolformer_jax.training import sharding
from poolformer_jax.training.config import TrainConfig


@pytest.mark.slow
def test_eight_devices_train_like_one():
    command = [sys.executable, "-m", "tests.training.compare_devices"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    print(result)
    assert result["devices"] == 8
    assert len(set(result["losses"])) == 5
    assert result["loss_difference"] <= 1e-6
    assert result["parameter_difference"] <= 1e-6
    # How far the parameters moved, not how large they are: other dropout masks on other devices,
    # or a mean of means, would show as 0.01 and more. (Adam amplifies small gradients' rounding.)
    assert result["update_difference"] <= 1e-4


@pytest.mark.slow
def test_eight_devices_train_a_classifier_like_one():
    command = [sys.executable, "-m", "tests.training.compare_classifier_devices"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    print(result)
    assert result["devices"] == 8 and len(set(result["losses"])) == 3
    # Sums in another order. Statistics of parts of a batch, or other changes of the clips, would
    # show as 0.01 or more.
    assert result["loss_difference"] <= 1e-6
    assert max(result["update_difference"]) <= 1e-5


# One device eight times: the checks look at the mesh's shape alone.
EIGHT_DEVICES = Mesh(np.asarray(jax.devices()[:1] * 8), (sharding.DATA_AXIS,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 12, "eval_batch_size": 8}, "batch_size 12 .* 8 devices .* such as 16"),
        (
            {"batch_size": 8, "eval_batch_size": 8, "grad_accum_steps": 2},
            "batch_size 8 .* 8 devices x 2 accumulation steps; .* such as 16",
        ),
        ({"batch_size": 16, "eval_batch_size": 20}, "eval_batch_size 20 .* 8 devices.* 24"),
    ],
)
def test_batches_that_do_not_split_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        sharding.check_batch_sizes(TrainConfig(**fields), EIGHT_DEVICES)


def test_batches_that_split_pass():
    sharding.check_batch_sizes(TrainConfig(batch_size=32, grad_accum_steps=4), EIGHT_DEVICES)


def test_rules_place_every_leaf():
    mesh = sharding.make_mesh(jax.devices()[:1])
    tree = {
        "a": {"kernel": jax.ShapeDtypeStruct((2, 3), "float32")},
        "step": jax.ShapeDtypeStruct((), "int32"),
    }
    placed = sharding.state_sharding(mesh, tree)
    assert all(s.is_fully_replicated for s in jax.tree.leaves(placed))
