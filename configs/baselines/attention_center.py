"""Causal attention in the centre of SaShiMi's U-Net: 6,294,176 parameters; `:digits` 143,284.

    python -m launch.train --config=configs/baselines/attention_center.py --workdir=runs/center
    python -m launch.train --config=configs/baselines/attention_center.py:digits --workdir=runs/one

Published: 1.859 bits per sample, FID 1.45, "about 6M" (Gu & Dao 2023, arXiv:2312.00752, table 5:
S4+MLP outside, MHA+MLP in the centre). Not trained here yet. The window is the whole clip.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(f"baselines/sashimi:{size}")
    heads = 4 if size else 8
    config.model.center_mixer = {
        "kind": "attention",
        "num_heads": heads,
        "num_kv_heads": heads,
        "window": 1_000,
        "wavelength": None,
        "bias": True,
    }
    config.model.center_mlp_expansion = 1
    if size:
        config.model.width = 12
        config.model.layers = (3, 3, 3)
        return config

    groups = config.train.parameter_groups
    config.train = named_config("baselines/mamba").train
    config.train.parameter_groups = groups
    return config
