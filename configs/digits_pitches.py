"""A Poolformer that says the ten digits at forty-one pitches in one voice of eSpeak NG.

    python -m launch.train --config=configs/digits_pitches.py --workdir=runs/digits_pitches

No test clip is a training clip, other than in digits_steady. Expected after 1,500 steps: 2.55 bits
per sample on 40 validation clips (8.61 before). Source: measured with 4,500 steps, stopped at 2,874
with 2.17 bits; a second run then brought 70 % of its words to be recognised. Its commands are on
the card of the model that comes with the package (poolformer_jax/pretrained/digits).
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("digits_steady")

    config.data.name = "digits_pitches"
    config.data.seq_len = 4_640  # Whole words, and the silence behind them.

    config.train.num_steps = 4_500
    return config
