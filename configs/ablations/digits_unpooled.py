"""The model of configs/digits_steady.py without its pools: the same nine blocks at every sample.

    python -m launch.train --config=configs/ablations/digits_unpooled.py --workdir=runs/unpooled

Expected: TODO
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("digits_steady")
    config.model.pool_factors = ()
    config.model.layers = (9,)
    return config
