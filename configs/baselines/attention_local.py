"""Poolformer with attention over a sliding window in each block: 6,286,592 parameters on SC09.

    python -m launch.train --config=configs/baselines/attention_local.py --workdir=runs/attention
    python -m launch.train --config=configs/baselines/attention_local.py:digits --workdir=runs/small

`:digits` has 143,488. Published: nothing. Each step sees 256 steps of its level, through four heads
that share keys and values (De et al. 2024, arXiv:2402.19427, section 2.3). Not trained here yet on
SC09; docs/baselines.md has what the small size reached.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(size or "sc09")
    config.model.mixer = {"kind": "attention"}
    if size:
        config.model.layers = (1, 2, 2, 2)
    return config
