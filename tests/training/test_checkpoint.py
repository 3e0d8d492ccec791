import collections
import dataclasses
import functools
import gc
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.training.checkpoint import Checkpointer, Progress
from poolformer_jax.training.errors import DamagedCheckpointError, TrainingError
from poolformer_jax.training.state import init_train_state
from tests.training.tiny import OBJECTIVE as NESTED
from tests.training.tiny import TRAIN, Unigram, make_objective

OBJECTIVE = make_objective(Unigram())  # Orbax takes its time for every array.


def abstract_state(objective, config=TRAIN):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return sharding.abstract_state(mesh, functools.partial(init_train_state, objective, config))


@pytest.fixture(scope="module")
def abstract():
    return abstract_state(OBJECTIVE)


@pytest.fixture
def checkpointer(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints", OBJECTIVE.rank)
    yield checkpointer
    checkpointer.close()


def state_at(step, objective=OBJECTIVE):
    """A state in which every leaf differs from step to step."""
    state = jax.eval_shape(functools.partial(init_train_state, objective, TRAIN))
    rng = np.random.default_rng(step)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 100), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    return dataclasses.replace(jax.tree.map(fill, state), step=jnp.asarray(step, jnp.int32))


def save(checkpointer, step, bits, objective=OBJECTIVE):
    validation = None if bits is None else {"bits_per_sample": bits}
    state = state_at(step, objective)
    progress = Progress(examples_seen=8 * step, validation=validation)
    checkpointer.save(state, progress)
    checkpointer.wait()
    return state, progress


def test_everything_comes_back(checkpointer):
    state, progress = save(checkpointer, 7, 3.25, NESTED)
    restored, restored_progress = checkpointer.restore(abstract_state(NESTED))
    assert restored_progress == progress
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_latest_two_and_best_are_kept(checkpointer, tmp_path):
    for step, bits in [(1, 4.0), (2, 2.0), (3, 3.0), (4, None), (5, 5.0)]:
        save(checkpointer, step, bits)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 4, 5]
    assert (checkpointer.latest_step, checkpointer.best_step) == (5, 2)


def test_best_is_remembered_by_the_next_process(checkpointer, tmp_path):
    save(checkpointer, 1, 2.0)
    again = Checkpointer(tmp_path / "checkpoints", OBJECTIVE.rank)
    for step in (2, 3, 4):
        save(again, step, 3.0)
    again.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [1, 3, 4]


def test_not_a_number_is_never_the_best(checkpointer):
    """Neither before nor after a number: NaN is neither smaller nor larger."""
    best = []
    for step, bits in enumerate([float("nan"), 4.0, float("nan")], start=1):
        save(checkpointer, step, bits)
        best.append(checkpointer.best_step)
    assert best == [None, 2, 2]


@pytest.mark.parametrize(("weights", "item"), [("ema", "ema_params"), ("raw", "params")])
def test_parameters_alone(checkpointer, abstract, weights, item):
    first, _ = save(checkpointer, 1, 2.0)
    save(checkpointer, 2, 3.0)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    init = functools.partial(OBJECTIVE.model.init_params, jax.random.key(0))
    target = sharding.abstract_state(mesh, init)
    params, step = checkpointer.restore_params(target, step="best", weights=weights)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, params, getattr(first, item))


def test_nothing_to_restore(checkpointer, abstract):
    assert checkpointer.restore(abstract) is None
    assert checkpointer.best_step is None
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 3 in"):
        checkpointer.restore_params(abstract.params, step=3, weights="ema")


def test_interrupted_save_is_ignored(checkpointer, abstract, tmp_path):
    state, _ = save(checkpointer, 3, None)
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    again = Checkpointer(tmp_path / "checkpoints", OBJECTIVE.rank)
    assert again.latest_step == 3
    restored, _ = again.restore(abstract)
    np.testing.assert_array_equal(restored.step, state.step)
    again.close()


def damage(path, how):
    """Changes the largest file of an item, or another file."""
    if path.is_dir():
        path = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(content if how == "flip" else content[: len(content) // 2])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 1 (the best), 2 and 3; and their states."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpointer = Checkpointer(folder, OBJECTIVE.rank)
    states = {step: save(checkpointer, step, 2.0 + step) for step in (1, 2, 3)}
    checkpointer.close()
    return folder, states


@pytest.fixture
def opened(saved, tmp_path):
    """Opens a damaged copy of these checkpoints."""
    opened = []

    def open_copy(*damages, **options):
        folder = shutil.copytree(saved[0], tmp_path / "checkpoints")
        for name, how in damages:
            damage(folder / name, how)
        opened.append(Checkpointer(folder, OBJECTIVE.rank, **options))
        return opened[-1]

    yield open_copy
    for checkpointer in opened:
        checkpointer.close()


@pytest.mark.parametrize(
    "damages",
    [
        [("3/params/d", "flip")],
        [("3/optimizer/d", "cut")],
        [("3/progress/metadata", "flip")],
        [("3/ema_params/_METADATA", "cut"), ("2/progress/metadata", "cut")],
    ],
)
def test_good_checkpoint_takes_the_place_of_damaged_ones(
    saved, opened, abstract, damages, tmp_path, caplog
):
    step = 3 - len(damages)
    state, progress = opened(*damages).restore(abstract)
    expected, expected_progress = saved[1][step]
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert progress == expected_progress
    # Said, and kept.
    assert f"checkpoints/{step + 1} is damaged" in caplog.text
    assert f"the checkpoint of step {step} takes its place" in caplog.text
    kept = sorted(int(path.name) for path in (tmp_path / "damaged_checkpoints").iterdir())
    assert kept == list(range(step + 1, 4))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"][:step]


def test_damaged_best_checkpoint_is_kept_and_told_of(saved, opened, abstract, tmp_path, caplog):
    checkpointer = opened(("1/progress/metadata", "flip"))
    assert "checkpoints/1 is damaged" in caplog.text
    assert int(checkpointer.restore(abstract)[0].step) == 3
    assert [path.name for path in (tmp_path / "damaged_checkpoints").iterdir()] == ["1"]


def test_reader_lists_again_what_a_training_has_deleted(saved, opened, abstract, tmp_path):
    reader = opened(read_only=True)
    for old, new in ((1, 4), (2, 5), (3, 6)):
        (tmp_path / "checkpoints" / str(old)).rename(tmp_path / "checkpoints" / str(new))
    params, step = reader.restore_params(abstract.params, step="latest", weights="ema")
    assert step == 6
    jax.tree.map(np.testing.assert_array_equal, params, saved[1][3][0].ema_params)


def test_no_good_checkpoint_is_left(opened, abstract, tmp_path):
    checkpointer = opened(*((f"{step}/params/d", "flip") for step in (1, 2, 3)))
    with pytest.raises(DamagedCheckpointError, match=r"no good checkpoint .*\[3, 2, 1\] are dam"):
        checkpointer.restore(abstract)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3  # Where they were.


def test_readers_pass_over_damage_and_move_nothing(saved, opened, abstract, tmp_path):
    reader = opened(("1/ema_params/d", "flip"), ("3/progress/metadata", "flip"), read_only=True)
    for step, found in (("best", 2), ("latest", 2)):
        params, number = reader.restore_params(abstract.params, step=step, weights="ema")
        assert number == found
        jax.tree.map(np.testing.assert_array_equal, params, saved[1][2][0].ema_params)
    reader.restore_params(abstract.params, step=1, weights="raw")  # Not what is damaged.
    with pytest.raises(DamagedCheckpointError, match=r"\[1\] in .* are damaged; other .*: \[2, 3"):
        reader.restore_params(abstract.params, step=1, weights="ema")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def other_optimizer():
    return abstract_state(OBJECTIVE, dataclasses.replace(TRAIN, optimizer="sgd"))


def test_another_optimizer_is_no_damage(opened, tmp_path):
    with pytest.raises(TrainingError, match=r"holds other arrays than .*train\.optimizer"):
        opened().restore(other_optimizer())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_checkpoint_without_checksums_is_read(saved, opened, abstract, caplog, tmp_path):
    checkpointer = opened()
    path = tmp_path / "checkpoints" / "3" / "progress" / "metadata"
    checkpointer.close()
    path.write_text(json.dumps({"examples_seen": 24, "validation_bits": 5.0}))
    checkpointer = Checkpointer(path.parents[2], OBJECTIVE.rank)
    with pytest.raises(TrainingError, match="holds other arrays than this configuration makes"):
        checkpointer.restore(other_optimizer())
    with caplog.at_level("INFO"):
        state, progress = checkpointer.restore(abstract)
    checkpointer.close()
    jax.tree.map(np.testing.assert_array_equal, state, saved[1][3][0])
    assert progress == Progress(examples_seen=24, validation={"bits_per_sample": 5.0})
    assert "no checksums" in caplog.text


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's readers.
def test_two_hundred_random_damages_are_never_silent(saved, abstract, tmp_path, caplog):
    caplog.set_level("CRITICAL", logger="asyncio")
    rng = random.Random(0)
    newest = saved[0] / "3"
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    outcomes = collections.Counter()
    for case in range(200):
        folder = tmp_path / str(case) / "checkpoints"
        shutil.copytree(saved[0], folder, ignore=shutil.ignore_patterns("1"))
        path, how = folder / "3" / rng.choice(files), rng.choice(["flip", "flip", "cut", "delete"])
        content = bytearray(path.read_bytes())
        if how == "delete":
            path.unlink()
        elif how == "flip":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        else:
            path.write_bytes(content[: rng.randrange(len(content))])
        checkpointer = Checkpointer(folder, OBJECTIVE.rank)
        state, progress = checkpointer.restore(abstract)
        checkpointer.close()
        # Either as it was saved, where the damage is of no consequence, or the one before.
        expected, expected_progress = saved[1][int(state.step)]
        assert progress == expected_progress, (path, how)
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        outcomes[int(state.step)] += 1
        shutil.rmtree(tmp_path / str(case))
    gc.collect()  # Readers that were left behind report here, and not at the end of all tests.
    assert outcomes[2] > 20 and outcomes[3] > 20, outcomes
