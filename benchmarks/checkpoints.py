"""What do checksums add to the saving of a checkpoint?

    python -m benchmarks.checkpoints --config=sc09

Saves a state of random parameters several times, waiting each time until it is on disk, and
computes its checksums apart. The first save, which compiles them, is left out.

Measured on two cores: docs/verified.md.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
import tempfile
import time

import jax
from absl import flags
from absl import logging as absl_logging

from launch import command_line
from poolformer_jax import experiment as ex
from poolformer_jax.training.checkpoint import Checkpointer, Progress, arrays_of
from poolformer_jax.training.checksum import checksum_arrays
from poolformer_jax.training.sequence_objective import SequenceObjective, rank_likelihood
from poolformer_jax.training.state import init_train_state

_FLAGS = flags.FlagValues()
_CONFIG = command_line.define_config(_FLAGS)
_REPEATS = flags.DEFINE_integer("repeats", 12, "Saves.", lower_bound=2, flag_values=_FLAGS)


def main(argv):
    """Measures; returns the share of the checksums."""
    del argv
    absl_logging.set_verbosity(absl_logging.ERROR)
    experiment = ex.make_experiment(_CONFIG.value)
    objective = SequenceObjective(experiment.model.build(), lambda params, should_stop: None)
    state = jax.jit(functools.partial(init_train_state, objective, experiment.train))()
    saving, checking = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = Checkpointer(pathlib.Path(folder) / "checkpoints", rank_likelihood)
        for _ in range(_REPEATS.value):
            state = jax.block_until_ready(dataclasses.replace(state, step=state.step + 1))
            start = time.perf_counter()
            checkpointer.save(state, Progress())
            checkpointer.wait()
            saved = time.perf_counter()
            for tree in arrays_of(state).values():
                checksum_arrays(tree)
            saving.append(saved - start)
            checking.append(time.perf_counter() - saved)
        checkpointer.close()
    whole, share = statistics.median(saving[1:]), statistics.median(checking[1:])
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    print(f"{size:.0f} MB: a save takes {whole:.3f} s, of which checksums {share / whole:.1%}")
    return share / whole


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
