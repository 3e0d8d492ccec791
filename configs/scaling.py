"""The SC09 recipe at eight sizes, of 1 to 400 million parameters; and digits at four, for a CPU.

    python -m launch.train --config=configs/scaling.py:100m --workdir=runs/sc09_100m --distributed
    python -m launch.train --config=configs/scaling.py:digits_40k --workdir=runs/digits_40k

Expected: unknown, not trained here; 7m is configs/sc09.py, whose published result is 1.854 bits per
sample. For digits see docs/scaling.md.

Learning rate ~ N^-0.713 D^0.307 and batch size ~ D^0.571, for N parameters and D samples of
training: the exponents of Li et al. 2025, arXiv:2503.04715 (Step Law; fitted to Transformers of
text), through the recipe that the sizes start from, in place of that paper's factors.

All sizes of a ladder read the same samples. Depth grows as the square root of the width, but for
20m: between widths of 128 and 256, which fill the lanes of a TPU, there is none, so it is shallow.
"""

from poolformer_jax.experiment import UserError, named_config

LR_BY_PARAMETERS, LR_BY_SAMPLES, BATCH_BY_SAMPLES = -0.713, 0.307, 0.571

# Size: width, layers of each stack, parameters.
SC09 = {
    "1m": (64, 3, 1_405_056),
    "3m": (96, 3, 3_102_784),
    "7m": (128, 4, 7_272_704),
    "20m": (256, 3, 21_544_704),
    "40m": (256, 6, 43_013_376),
    "100m": (384, 7, 112_413_184),
    "200m": (512, 8, 227_897_600),
    "400m": (640, 9, 400_083_456),
}
# Size: width, parameters. A quarter of the samples of configs/digits.py.
DIGITS = {
    "digits_10k": (8, 13_056),
    "digits_40k": (16, 41_216),
    "digits_140k": (32, 143_616),
    "digits_500k": (64, 532_736),
}


def get_config(size=""):
    if size in SC09:
        config = named_config("sc09")
        width, layers, parameters = SC09[size]
        config.model.layers = (layers,) * 5
        _, _, of_recipe = SC09["7m"]
        samples = 1.0
    elif size in DIGITS:
        config = named_config("digits")
        config.data.normalize = True  # As measured (docs/scaling.md).
        width, parameters = DIGITS[size]
        _, of_recipe = DIGITS["digits_140k"]
        samples = 0.25
    else:
        raise UserError(
            f"{size!r} is no size; write one behind a colon, such as scaling.py:100m: "
            f"{', '.join([*SC09, *DIGITS])}"
        )
    config.model.width = width
    config.model.mixer.recurrent_width = 2 * width
    config.model.mixer.num_gate_blocks = width // 4  # Of eight columns, as in either recipe.

    train = config.train
    rate = (parameters / of_recipe) ** LR_BY_PARAMETERS * samples**LR_BY_SAMPLES
    train.learning_rate = float(f"{train.learning_rate * rate:.2g}")
    clips = train.num_steps * train.batch_size * samples
    train.batch_size = round(train.batch_size * samples**BATCH_BY_SAMPLES)
    train.num_steps = round(clips / train.batch_size)
    return config
