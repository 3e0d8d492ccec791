"""The digits model with plain LRUs: how much do the gates of the recurrence give?

    python -m launch.train --config=configs/ablations/digits_lru.py --workdir=runs/digits_lru

Expected: not trained yet. The RG-LRU in its place, configs/digits.py, reaches 4.48 bits per sample.
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("digits")
    config.model.mixer = {"kind": "lru", "recurrent_width": 64}
    return config
