"""The larger Mamba of the paper, on SC09: 24,851,008 parameters; `:digits` has 141,916.

    python -m launch.train --config=configs/baselines/mamba_large.py --workdir=runs/mamba_large
    python -m launch.train --config=configs/baselines/mamba_large.py:digits --workdir=runs/small

Published: 1.860 bits per sample, FID 0.67, IS 7.33, and a count of 24.3M (Gu & Dao 2023,
arXiv:2312.00752, table 4). Not trained here yet.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(f"baselines/mamba:{size}")
    config.model.width = 10 if size else 96
    config.model.layers = (5, 4, 5) if size else (15, 15, 15)
    return config
