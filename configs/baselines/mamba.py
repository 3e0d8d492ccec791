"""Mamba in SaShiMi's U-Net, on SC09: 6,255,104 parameters; `:digits` has 141,216, for a CPU.

    python -m launch.train --config=configs/baselines/mamba.py --workdir=runs/mamba
    python -m launch.train --config=configs/baselines/mamba.py:digits --workdir=runs/small

Published: 1.852 bits per sample, FID 0.94, IS 6.26, and a count of 6.1M (Gu & Dao 2023,
arXiv:2312.00752, table 4). Not trained here yet; docs/baselines.md has what the small size reached,
with the recipe of configs/digits.py or, as `:fsdd`, of configs/fsdd.py.
"""

from typing import Literal

from poolformer_jax.experiment import named_config

STATE_SPACE = {"pattern": r"/(a_log|a_imag|skip|time_step_bias)$", "weight_decay": 0.0}
UNDECAYED = {"pattern": r"/(bias|scale)$", "weight_decay": 0.0}


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(f"baselines/sashimi:{size}")
    config.model.mixer = {"kind": "mamba"}
    config.model.mlp_expansion = 0
    config.model.norm = "rms_norm"

    train = config.train
    train.parameter_groups = (STATE_SPACE,)
    if size:
        config.model.layers = (1, 2, 2)
        return config

    train.parameter_groups += (UNDECAYED,)
    train.learning_rate = 2e-3
    train.warmup_steps = 20_000
    train.beta2 = 0.95
    train.clip_norm = 0.1
    return config
