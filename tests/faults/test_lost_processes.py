"""Trainings that lose a process end as if nothing had happened, bit for bit.

    POOLFORMER_FAULTS=20 pytest tests/faults -m "slow or not slow" -s

kills twenty times in a row, and tries more ways to lose one of two processes, which then are as
patient with each other as a user's.
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

from tests.launch.impatient import SOONER_SECONDS
from tests.launch.processes import call, finish, start, start_pod
from tests.launch.runs import losses, train_flags

CASES = int(os.environ.get("POOLFORMER_FAULTS", 0))
# What comes to one of two processes, and to which.
OFTEN, BY_NIGHT = [(signal.SIGKILL, 0)], [(signal.SIGSTOP, 1)]
if CASES:
    BY_NIGHT += [(signal.SIGKILL, 1), (signal.SIGSTOP, 0), (signal.SIGTERM, 1), (signal.SIGINT, 0)]


def arrays_of(workdir):
    """Every array of the last checkpoint, whichever devices it was saved from."""
    arrays, step = {}, last_saved(workdir)
    for item in ("params", "ema_params", "optimizer"):
        path = (workdir / f"checkpoints/{step}/{item}").absolute()
        with ocp.PyTreeCheckpointer() as reader:
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                reader.metadata(path).item_metadata.tree,
            )
            leaves = jax.tree.leaves(reader.restore(path, restore_args=as_numpy))
        arrays |= {f"{step}/{item}/{i}": leaf for i, leaf in enumerate(leaves)}
    return arrays


def assert_same_run(found, wanted):
    assert losses(found) == losses(wanted)
    arrays, expected = arrays_of(found), arrays_of(wanted)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def wait_for_steps(process, count):
    """Reads lines of progress, and returns the last one."""
    for line in process.stdout:
        count -= bool(re.match(r"step +\d+/", line))
        if not count:
            return line
    raise AssertionError(f"ended before: {process.stderr.read()}")


def last_saved(workdir):
    """Step of the last whole checkpoint, 0 if there is none."""
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def was_saving(workdir, since):
    """Whether a checkpoint of the last start is not whole; those of earlier ones may be left."""
    incomplete = (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")
    return any(path.stat().st_mtime > since for path in incomplete)


def steps_to_do_again(out, workdir):
    """From what the lost process wrote last."""
    return int(re.findall(r"^step +(\d+)/", out, re.M)[-1]) - last_saved(workdir)


@pytest.mark.nightly
def test_killed_at_random_moments(tmp_path, tiny_config):
    rng, found, wanted = random.Random(), tmp_path / "found", tmp_path / "wanted"
    few = [f"--config.train.num_steps={30 * max(2, CASES)}", "--config.train.checkpoint_every=5"]
    flags = train_flags(found, tiny_config, *few)
    killed_while_saving, again = 0, []
    for _ in range(CASES or 2):
        since, process = time.time(), start("train", *flags)
        try:
            out = wait_for_steps(process, rng.randint(1, 15))
            time.sleep(rng.uniform(0.0, 0.05))
        finally:
            process.kill()
            rest, _ = process.communicate()
        killed_while_saving += was_saving(found, since)
        again.append(steps_to_do_again(out + rest, found))
    assert call("train", *flags).finished
    assert call("train", *train_flags(wanted, tiny_config, *few)).finished
    print(f"{len(again)} kills, {killed_while_saving} while saving; steps done again: {again}")
    assert_same_run(found, wanted)


def start_two(workdir, tiny_config, faults):
    few = [f"--config.train.num_steps={7 * len(faults)}", "--config.train.checkpoint_every=3"]
    flags = train_flags(workdir, tiny_config, *few, "--config.mesh.fsdp=4")
    return start_pod("train", 2, *flags, devices=4, impatient=not CASES)


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(OFTEN, id="often", marks=pytest.mark.slow),
        pytest.param(BY_NIGHT, id="by night", marks=pytest.mark.nightly),
    ],
)
def test_one_of_two_processes_is_lost(tmp_path, tiny_config, faults):
    """Also by the one that waits for it: process 0 knows at once, and its loss is known at once."""
    found, wanted = tmp_path / "found", tmp_path / "wanted"
    for number, lost in faults:
        pod = start_two(found, tiny_config, faults)
        try:
            out = wait_for_steps(pod[0], 4)
            time.sleep(random.uniform(0.0, 0.5))
            pod[lost].send_signal(number)
            since = time.monotonic()
            ends = {1 - lost: finish(pod[1 - lost])}
            seconds = time.monotonic() - since
            pod[lost].send_signal(signal.SIGCONT)  # A host that answers again, too late.
            ends[lost] = finish(pod[lost])
        finally:
            for process in pod:
                process.kill()
        again = steps_to_do_again(out + ends[0][1], found)
        print(f"{number.name} to process {lost}: {seconds:.0f} s, steps done again: {again}")
        (code, _, err), (lost_code, _, lost_err) = ends[1 - lost], ends[lost]
        if number in (signal.SIGTERM, signal.SIGINT):
            assert (code, lost_code, again) == (143, 128 + number, 0), err + lost_err
            continue
        assert seconds < 60 - (0 if CASES else SOONER_SECONDS)
        assert code not in (0, None) and len(err.splitlines()) == 2, err
        assert err.startswith(f"error: process {lost} is lost: killed, failed, or out of reach")
        assert re.search(rf"\nthe last checkpoint is of step \d+ in {found}.*; to resume", err)
        if number == signal.SIGSTOP:
            assert lost_code not in (0, None) and lost_err.startswith("error: "), lost_err
    for workdir in (found, wanted):
        outputs = [finish(process) for process in start_two(workdir, tiny_config, faults)]
        assert [code for code, _, _ in outputs] == [0, 0], [err for _, _, err in outputs]
    assert_same_run(found, wanted)
