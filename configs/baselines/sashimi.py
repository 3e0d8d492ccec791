"""SaShiMi, the U-Net with S4, on SC09: 6,820,512 parameters; `:digits` has 140,412, for a CPU.

    python -m launch.train --config=configs/baselines/sashimi.py --workdir=runs/sashimi
    python -m launch.train --config=configs/baselines/sashimi.py:digits --workdir=runs/small

Published: 1.873 bits per sample, FID 1.99, IS 5.13 (README of the released code, for a U-Net that
was trained after the paper, Goel et al. 2022, arXiv:2202.09729). Not trained here yet. The small
size has the recipe of configs/digits.py, or, as `:fsdd`, of configs/fsdd.py, with a rate of their
own for the state spaces; docs/baselines.md has what it reached.
"""

from typing import Literal

from poolformer_jax.experiment import default_config, named_config

STATE_SPACE = r"/(A_real|A_imag|B|P|inv_dt)$"
UNDECAYED = r"/(bias|scale)$|embedding|/label/"


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    recipe = named_config(size or "sc09")
    config = default_config(model="sashimi")
    config.data, config.train = recipe.data, recipe.train
    for field in ("platform", "dtype", "remat"):
        config.model[field] = recipe.model[field]

    train = config.train
    state_space = {"pattern": STATE_SPACE, "learning_rate": 1e-3, "weight_decay": 0.0}
    train.parameter_groups = (state_space,)
    if size:
        config.model.width = 16
        config.model.layers = (1, 2, 1)
        return config

    train.parameter_groups += ({"pattern": UNDECAYED, "weight_decay": 0.0},)
    train.batch_size = 16
    train.num_steps = 200_000
    train.learning_rate = 1e-3
    train.schedule = "cosine"
    train.weight_decay = 0.1
    train.clip_norm = None
    train.skip_norm = None
    train.ema_decay = 0.0
    train.eval_every = train.checkpoint_every = 1_947  # An epoch.
    return config
