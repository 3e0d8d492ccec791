import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.classifier.augmentation import augmented_log_mel, draw_changes
from poolformer_jax.classifier.log_mel import log_mel
from poolformer_jax.classifier.network import classify
from poolformer_jax.classifier.step import init_classifier_state, make_classifier_step, make_loss
from tests.classifier.tiny_classifier import AUGMENT, MODEL, TRAIN, make_batch

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(7)

loss = jax.jit(make_loss(MODEL, AUGMENT))
loss_and_gradient = jax.jit(jax.value_and_grad(make_loss(MODEL, AUGMENT), has_aux=True))
step = jax.jit(make_classifier_step(MODEL, TRAIN, AUGMENT))


@pytest.fixture(scope="module")
def start():
    return init_classifier_state(MODEL, TRAIN)


@jax.jit
def network(params, stats, batch):
    if "noise" in batch:
        changes = draw_changes(AUGMENT, KEY, batch["noise"])
        mels = augmented_log_mel(batch["audio"], *changes)
    else:
        mels = log_mel(batch["audio"])
    logits, _, new = classify(MODEL, params, stats, mels, train=True)
    return logits, new


@pytest.mark.parametrize("with_noise", [False, True])
def test_loss_and_statistics_are_those_of_the_batch_as_the_network_sees_it(start, with_noise):
    batch = make_batch(0, with_noise=with_noise)
    logits, new = network(start.params, start.stats, batch)
    value, (stats, correct) = loss(start.params, start.stats, batch, KEY)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    # The same program, compiled apart.
    assert float(value) == pytest.approx(-log_p[np.arange(4), batch["labels"]].mean(), rel=1e-5)
    assert int(correct) == np.sum(log_p.argmax(1) == batch["labels"])
    # Means are of order 100.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), stats, new)


def test_clips_are_changed_as_the_key_says(start):
    batch = make_batch(0, with_noise=True)
    losses = [
        float(loss(start.params, start.stats, batch, jax.random.key(seed))[0]) for seed in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_update_is_that_of_sgd_with_momentum_and_decay_in_the_gradient(start):
    """Two steps with rates 0.05 and 0.02 and their own keys, against the formula leaf by leaf."""
    state, root_key = start, jax.random.fold_in(jax.random.key(TRAIN.seed), 1)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)
    velocity = jax.tree.map(np.zeros_like, params)
    for index, rate in enumerate((0.05, 0.02)):
        batch = make_batch(index, with_noise=True)
        key = jax.random.fold_in(root_key, index)
        (value, (stats, correct)), gradient = loss_and_gradient(
            state.params, state.stats, batch, key
        )
        state, metrics = step(state.replace(learning_rate=jnp.float32(rate)), batch)
        velocity = jax.tree.map(
            lambda v, g, p: 0.9 * v + np.asarray(g, np.float64) + 1e-2 * p,
            velocity,
            gradient,
            params,
        )
        params = jax.tree.map(lambda p, v, rate=rate: p - rate * v, params, velocity)
        # The same program, compiled apart.
        assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
        assert float(metrics["accuracy"]) == int(correct) / 4
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), state.stats, stats
        )
    # Float32 gradients of order 1 from two programs, times the rate, twice.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), state.params, params
    )
    assert int(state.step) == 2


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))


@pytest.mark.slow
def test_eight_devices_train_like_one(start):
    def train_on(devices):
        mesh = sharding.make_mesh(devices)
        abstract = sharding.abstract_state(mesh, lambda: init_classifier_state(MODEL, TRAIN))
        pure_step = make_classifier_step(MODEL, TRAIN, AUGMENT, mesh=mesh)
        mesh_step = sharding.jit_train_step(pure_step, mesh, abstract)
        state = sharding.init_sharded(mesh, lambda: init_classifier_state(MODEL, TRAIN))
        losses = []
        for index in range(3):
            batch = sharding.put_batch(mesh, make_batch(index, 8, with_noise=True))
            assert len(batch["audio"].addressable_shards) == len(devices)
            state, metrics = mesh_step(state, batch)
            losses.append(float(metrics["loss"]))
        return losses, jax.tree.map(np.asarray, (state.params, state.stats))

    one_losses, one = train_on(jax.devices()[:1])
    losses, eight = train_on(jax.devices()[:8])
    assert len(set(losses)) == 3
    # Sums in another order. Statistics of parts of a batch, or other changes of the clips, would
    # show as 0.01 or more.
    np.testing.assert_allclose(losses, one_losses, rtol=1e-6)
    for a, b, first in zip(one, eight, (start.params, start.stats), strict=True):
        difference = jax.tree.map(np.subtract, a, b)
        assert norm(difference) <= 1e-5 * norm(jax.tree.map(np.subtract, a, first))
