"""SaShiMi's U-Net with S4D, the diagonal state space: 6,492,832 parameters; `:digits` has 145,116.

    python -m launch.train --config=configs/baselines/sashimi_s4d.py --workdir=runs/sashimi_s4d
    python -m launch.train --config=configs/baselines/sashimi_s4d.py:digits --workdir=runs/small

Published: nothing on raw audio (S4D: Gu et al. 2022, arXiv:2206.11893). Not trained here yet;
docs/baselines.md has what the small size reached.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(f"baselines/sashimi:{size}")
    config.model.mixer = {"kind": "s4d"}
    if size:
        config.model.width = 20
        config.model.layers = (1, 1, 1)
    return config
