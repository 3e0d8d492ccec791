"""SaShiMi with one state matrix for all channels of a layer: 5,845,152 parameters; small 142,168.

    python -m launch.train --config=configs/baselines/sashimi_tied.py --workdir=runs/sashimi_tied
    python -m launch.train --config=configs/baselines/sashimi_tied.py:digits --workdir=runs/small

Published: nothing of its own; the "5.8M" that Gu & Dao 2023 (arXiv:2312.00752), table 4, print for
SaShiMi may be this count, with the figures of configs/baselines/sashimi.py. Not trained here yet.
"""

from typing import Literal

from poolformer_jax.experiment import named_config


def get_config(size: Literal["", "digits", "fsdd"] = ""):
    config = named_config(f"baselines/sashimi:{size}")
    config.model.mixer.tied = True
    if size:
        config.model.width = 18
        config.model.layers = (1, 3, 1)
    return config
