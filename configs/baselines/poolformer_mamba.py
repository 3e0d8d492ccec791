"""Poolformer with Mamba's block, at expansion 1, instead of the RG-LRU: 6,904,064 parameters.

    python -m launch.train --config=configs/baselines/poolformer_mamba.py --workdir=runs/pooled
    python -m launch.train --config=configs/baselines/poolformer_mamba.py:digits --workdir=runs/one

`:digits` has 144,896. Published: nothing. Beside configs/sc09.py it tells the recurrence apart from
the rest; beside mamba.py, the rest (pools, blocks, recipe) from the recurrence. Not trained here
yet on SC09; docs/baselines.md has what the small size reached.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(size or "sc09")
    config.model.mixer = {"kind": "mamba", "expand": 1}
    config.train.parameter_groups = (named_config("baselines/mamba").train.parameter_groups[0],)
    return config
