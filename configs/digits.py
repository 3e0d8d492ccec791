"""A small Poolformer on spoken digits, for a laptop: eSpeak NG says ten words in 104 voices.

    python -m launch.train --config=configs/digits.py --workdir=runs/digits

Expected on two CPU cores, after five minutes of training: 4.48 bits per sample on the validation
voices (8.70 before), 4.54 on the test voices. Source: measured with this command.
"""

from poolformer_jax.experiment import default_config


def get_config():
    config = default_config()

    config.model.width = 32
    config.model.mixer.recurrent_width = 64
    config.model.mixer.num_gate_blocks = 8
    config.model.pool_factors = (4, 4, 10)
    config.model.layers = (1, 1, 2, 2)
    config.model.platform = "cpu"
    config.model.remat = "elementwise"  # On a CPU, memory costs more than recomputing these.

    config.data.name = "digits"
    config.data.normalize = False  # Silence stays at the middle code (docs/data.md).
    # An eighth of a second, from anywhere in a word: four times the steps in the same minutes.
    # Evaluation sees whole words.
    config.data.train_len = 1_920
    config.data.crop = "random"

    # Small batches: in a few minutes, more updates beat better gradients.
    config.train.num_steps = 3000
    config.train.batch_size = 4
    config.train.learning_rate = 5e-3
    config.train.warmup_steps = 50
    config.train.schedule = "cosine"
    config.train.ema_decay = 0.99
    config.train.log_every = 100
    config.train.eval_every = 1500
    config.train.eval_batch_size = 8
    config.train.checkpoint_every = 500
    return config
