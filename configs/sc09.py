"""The published recipe on SC09: 7,272,704 parameters, 500 epochs of 973 steps.

    python -m launch.prepare_data --dataset=sc09 --manual_dir=FOLDER_OF_THE_ARCHIVE
    python -m launch.train --config=configs/sc09.py --workdir=runs/sc09 --distributed

On a pod, give both commands the same --data_dir=gs://bucket/folder.

Published: 1.854 bits per sample, FID 0.46, IS 6.46 (Gallo Fernandez 2025, arXiv:2510.02206). Not
reproduced here yet.
"""

from poolformer_jax.experiment import default_config


def get_config():
    config = default_config()

    config.model.dropout = 0.2
    config.model.platform = "tpu"
    config.model.dtype = "bfloat16"  # Parameters, statistics, recurrence and loss are float32.
    config.model.remat = "half_block"

    config.data.name = "sc09"
    config.data.codec = "mu_law"
    config.data.normalize = True
    config.data.seq_len = 16_000

    config.train.batch_size = 32
    config.train.num_steps = 500 * 973
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 1000
    config.train.beta1 = 0.9
    config.train.beta2 = 0.999
    config.train.weight_decay = 1e-4
    config.train.clip_norm = 200.0
    config.train.skip_norm = 1000.0
    config.train.ema_decay = 0.999
    config.train.eval_every = 973
    config.train.checkpoint_every = 973
    return config
