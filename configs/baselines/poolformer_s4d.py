"""Poolformer with S4D instead of the RG-LRU: 6,890,240 parameters on SC09; `:digits` has 144,768.

    python -m launch.train --config=configs/baselines/poolformer_s4d.py --workdir=runs/pooled_s4d
    python -m launch.train --config=configs/baselines/poolformer_s4d.py:digits --workdir=runs/small

Published: nothing. Beside configs/sc09.py it tells the recurrence apart from the rest; beside
sashimi_s4d.py, the rest (pools, blocks, recipe) from the recurrence. Not trained here yet on SC09;
docs/baselines.md has what the small size reached.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(size or "sc09")
    config.model.mixer = {"kind": "s4d"}
    state_space = named_config("baselines/sashimi").train.parameter_groups[0]
    config.train.parameter_groups = (state_space,)
    if size:
        config.model.layers = (1, 1, 1, 2)
    return config
