"""YouTubeMix on random crops of 131,072 samples (8 s); evaluation hears the whole minutes.

    python -m launch.prepare_data --dataset=youtubemix --manual_dir=FOLDER_OF_THE_ARCHIVE
    python -m launch.train --config=configs/youtubemix_crops.py --workdir=runs/crops --distributed

Expected: unknown; no result of a Poolformer on it is published, and it was not trained here.
Published for SaShiMi, on crops: 1.294 bits per sample (Goel et al. 2022, arXiv:2202.09729).

Compiled ahead of time for 16 v5e chips, a step takes 1.8 GB of each.
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("youtubemix")

    config.data.train_len = 131_072
    config.data.crop = "random"

    # Twice as many steps as for whole minutes: about as many samples in all.
    config.train.batch_size = 32
    config.train.num_steps = 500 * 52
    config.train.eval_every = 5 * 52
    config.train.checkpoint_every = 52
    return config
