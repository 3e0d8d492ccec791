"""Trainings that lose a process end as if nothing had happened, bit for bit.

    POOLFORMER_FAULTS=20 pytest tests/faults -m "slow or not slow" -s

kills twenty times in a row, and stops a host for good; without it, two kills. Other faults are
tested where they are handled: damaged checkpoints and a full disk in tests/training, unreadable
records in tests/data.
"""

import os
import random
import re
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.launch.processes import call, finish, start, start_pod
from tests.launch.runs import losses, train_flags

KILLS = int(os.environ.get("POOLFORMER_FAULTS", 0))
STEPS = 30 * max(2, KILLS)
FLAGS = [
    f"--config.train.num_steps={STEPS}",
    "--config.train.checkpoint_every=5",
    "--config.train.eval_every=50",
]


def arrays_of(workdir, step):
    """Every array of a checkpoint, as Orbax stores it."""
    arrays = {}
    for item in ("params", "ema_params", "optimizer"):
        tree = ocp.StandardCheckpointer().restore(
            (workdir / f"checkpoints/{step}/{item}").absolute()
        )
        arrays |= {f"{item}/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    return arrays


def assert_same_run(found, wanted, step):
    assert losses(found) == losses(wanted)
    arrays, expected = arrays_of(found, step), arrays_of(wanted, step)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def wait_for_steps(process, count):
    """Reads lines of progress; returns the last step, None if the run ended before."""
    for line in process.stdout:
        if match := re.match(r"step +(\d+)/", line):
            count -= 1
            if not count:
                return int(match.group(1))
    return None


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_config):
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert call("train", *train_flags(workdir, tiny_config, *FLAGS)).finished
    return workdir


@pytest.mark.slow
def test_killed_at_random_moments(undisturbed, tmp_path, tiny_config):
    rng, flags = random.Random(), train_flags(tmp_path, tiny_config, *FLAGS)
    killed_while_saving, lost = 0, []
    for _ in range(KILLS or 2):
        process = start("train", *flags)
        try:
            step = wait_for_steps(process, rng.randint(1, 15))
            assert step is not None, process.stderr.read()
            time.sleep(rng.uniform(0.0, 0.02))
        finally:
            process.kill()
            process.communicate()
        saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
        killed_while_saving += any(not name.isdecimal() for name in saved)
        lost.append(step - max([int(name) for name in saved if name.isdecimal()], default=0))
    assert call("train", *flags).finished
    print(f"{len(lost)} kills, {killed_while_saving} while saving; steps done again: {lost}")
    assert_same_run(tmp_path, undisturbed, STEPS)


@pytest.mark.slow
@pytest.mark.skipif(not KILLS, reason="waits for a minute; POOLFORMER_FAULTS=1 runs it")
def test_a_host_that_stops_answering_ends_the_others(undisturbed, tmp_path, tiny_config):
    flags = train_flags(tmp_path, tiny_config, *FLAGS)
    pod = start_pod("train", 2, *flags, devices=4)
    try:
        assert wait_for_steps(pod[0], 10)
        pod[1].send_signal(signal.SIGSTOP)
        start_of_silence = time.monotonic()
        code, _, err = finish(pod[0])
        seconds = time.monotonic() - start_of_silence
    finally:
        for process in pod:
            process.kill()
    assert code == 1 and "process 1" in err, err
    print(f"the other ended after {seconds:.0f} s")
    assert seconds < 60
    # On one process with eight devices, sums go in the same order but for those between processes.
    assert call("train", *flags).finished
    found, wanted = losses(tmp_path), losses(undisturbed)
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    np.testing.assert_allclose([r[2] for r in found[:30]], [r[2] for r in wanted[:30]], rtol=1e-5)
