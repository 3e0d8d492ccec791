"""A Poolformer that says the ten digits at forty-one pitches in one voice of eSpeak NG.

    python -m launch.train --config=configs/digits_pitches.py --workdir=runs/digits_pitches

Unlike in digits_steady, no test clip is a training clip. Expected: 2.55 bits per sample on 40
validation clips after 1,500 steps (8.61 before), and 2.17 after 2,874, where it was stopped; after
two more runs 80 % of its words are recognised. Their commands are on the card of the model that
comes with the package (poolformer_jax/pretrained/digits). Source: measured with them.
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("digits_steady")

    config.data.name = "digits_pitches"
    config.data.seq_len = 4_640  # Whole words, and the silence behind them.

    config.train.num_steps = 4_500
    return config
