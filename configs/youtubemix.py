"""The SC09 recipe on YouTubeMix: piano music, a minute at a time, 500 epochs of 26 steps.

    python -m launch.prepare_data --dataset=youtubemix --manual_dir=FOLDER_OF_THE_ARCHIVE
    python -m launch.train --config=configs/youtubemix.py --workdir=runs/youtubemix --distributed

Expected: unknown; no result of a Poolformer on it is published, and it was not trained here.
Published for SaShiMi, on crops: 1.294 bits per sample (Goel et al. 2022, arXiv:2202.09729). For
crops take configs/youtubemix_crops.py.

On 8 v5e chips, which share a minute with --config.mesh.sequence=8, a step takes 1.8 GB of each
(compiled ahead of time).
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("sc09")

    # 160, as for SC09, does not divide the sequence; 128 does.
    config.model.pool_factors = (2, 4, 4, 4)

    config.data.name = "youtubemix"
    config.data.seq_len = 960_512

    config.train.batch_size = 8
    config.train.num_steps = 500 * 26
    config.train.eval_every = 5 * 26
    config.train.eval_batch_size = 8
    config.train.checkpoint_every = 26
    return config
