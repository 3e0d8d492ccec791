"""SaShiMi as first published, no layers before its pools: 4,751,072 parameters; `:digits` 143,312.

    python -m launch.train --config=configs/baselines/sashimi_ar.py --workdir=runs/sashimi_ar
    python -m launch.train --config=configs/baselines/sashimi_ar.py:digits --workdir=runs/small

Published: 1.891 bits per sample, FID 1.99, IS 4.12, and a count of 4.1M (Goel et al. 2022,
arXiv:2202.09729, table 6); the released configuration has 4,751,072. Not trained here yet.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(f"baselines/sashimi:{size}")
    config.model.unet = False
    config.model.mixer.tied = True
    config.model.pool_weight_norm = True
    if size:
        config.model.layers = (3, 2, 3)
        return config

    config.train.batch_size = 8
    config.train.num_steps = 1_100_000
    config.train.learning_rate = 4e-3
    config.train.schedule = "plateau"
    config.train.plateau_patience = 20
    config.train.plateau_factor = 0.2
    config.train.warmup_steps = 0
    config.train.weight_decay = 0.0
    config.train.eval_every = config.train.checkpoint_every = 3_894  # An epoch.
    return config
