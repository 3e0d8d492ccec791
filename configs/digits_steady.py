"""A Poolformer that says the ten digits in one voice of eSpeak NG, told by a label which.

    python -m launch.train --config=configs/digits_steady.py --workdir=runs/digits_steady

Expected on two CPU cores, after about 22 minutes: 3.08 bits per sample on 40 validation clips (8.67
before), 3.13 on 40 test clips; half of its clips are recognised as their label. Source: the run
that poolformer_jax/pretrained/digits comes from, shortened from 7,500 steps at step 1,478.
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("digits_one_voice")

    config.data.name = "digits_steady"
    config.data.seq_len = 4_480  # Whole words.

    config.train.num_steps = 6_000
    config.train.learning_rate = 1e-2
    config.train.beta2 = 0.99
    config.train.ema_decay = 0.99
    config.train.onset_weight = 300.0  # Together as much as the rest of a word.
    config.train.onset_samples = 12
    return config
