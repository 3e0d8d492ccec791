"""A workdir as training leaves it, without training: random parameters, one checkpoint."""

import functools
import pathlib

import jax

from poolformer_jax.experiment import make_experiment, write_experiment
from poolformer_jax.training.checkpoint import Checkpointer, Progress
from poolformer_jax.training.sequence_objective import SequenceObjective, rank_likelihood
from poolformer_jax.training.state import init_train_state

TINY_MODEL = {
    "width": 8,
    "mixer": {"kind": "rg_lru", "recurrent_width": 16, "num_gate_blocks": 4},
    "pool_factors": (4,),
    "layers": (0, 1),
    "platform": "cpu",
}


def make_workdir(path: pathlib.Path, *, broken: bool = False, **sections) -> pathlib.Path:
    """Sections are fields of `model`, `data` and `train`; a broken model's logits are NaN."""
    sections["model"] = TINY_MODEL | sections.get("model", {})
    experiment = make_experiment(sections)
    path.mkdir(parents=True)
    write_experiment(path, experiment)
    objective = SequenceObjective(experiment.model.build(), lambda params, should_stop: None)
    state = jax.jit(functools.partial(init_train_state, objective, experiment.train))()
    if broken:
        bias = state.ema_params["head"]["projection"]["bias"]
        state.ema_params["head"]["projection"]["bias"] = bias * float("nan")
    checkpointer = Checkpointer(path / "checkpoints", rank_likelihood)
    checkpointer.save(state, Progress(validation={"bits_per_sample": 5.0}))
    checkpointer.close()
    return path
