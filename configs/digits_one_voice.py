"""A Poolformer of spoken digits in one voice of eSpeak NG, told by a label which.

    python -m launch.train --config=configs/digits_one_voice.py --workdir=runs/digits_one_voice

Expected on two CPU cores, after about 45 minutes: 3.29 bits per sample on 40 validation clips (8.67
before), 3.35 on 40 test clips. Source: a run that was planned for 7,000 steps and shortened to
these at step 2,419. It has sounds of speech and few words; `digits_steady.py` is an easier task.
"""

from poolformer_jax.experiment import named_config


def get_config():
    config = named_config("digits")

    config.model.num_classes = 10
    config.model.width_growth = 2
    config.model.layers = (1, 1, 2, 1)

    config.data.name = "digits_one_voice"
    config.data.seq_len = 9_600  # Whole words but for the slowest takes.
    config.data.train_len = None
    config.data.crop = "start"
    config.data.eval_clips = 40

    config.train.num_steps = 5_500
    config.train.batch_size = 2
    config.train.learning_rate = 4e-3
    config.train.warmup_steps = 100
    config.train.ema_decay = 0.999
    config.train.label_dropout = 0.1
    config.train.log_every = 100
    config.train.eval_every = 1_000
    config.train.checkpoint_every = 500
    return config
