"""The SC09 recipe on Beethoven: piano sonatas in pieces of eight seconds, 500 epochs of 119 steps.

    python -m launch.prepare_data --dataset=beethoven --manual_dir=FOLDER_OF_THE_ARCHIVE
    python -m launch.train --config=configs/beethoven.py --workdir=runs/beethoven --distributed

Expected: unknown; no result of a Poolformer on it is published, and it was not trained here.
Clips, splits and the linear 8-bit codec are those of SaShiMi (Goel et al. 2022, arXiv:2202.09729),
for comparison; the author of Poolformer uses --config.data.codec=mu_law.

Compiled ahead of time for 16 v5e chips, a step takes 1.7 GB of each.
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("sc09")

    config.data.name = "beethoven"
    config.data.codec = "linear"
    config.data.seq_len = 128_000

    config.train.num_steps = 500 * 119
    config.train.eval_every = 5 * 119
    config.train.checkpoint_every = 119
    return config
