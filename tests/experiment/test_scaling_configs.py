"""The ladders of configs/scaling.py: sizes, shapes, and recipes by the stated rule."""

import itertools
import re

import pytest

from poolformer_jax.experiment import config_file, make_experiment, named_config
from poolformer_jax.models.sequence_model import count_params

# Size: parameters, learning rate.
SC09 = {
    "1m": (1_405_056, 6.5e-3),
    "3m": (3_102_784, 3.7e-3),
    "7m": (7_272_704, 2e-3),
    "20m": (21_544_704, 9.2e-4),
    "40m": (43_013_376, 5.6e-4),
    "100m": (112_413_184, 2.8e-4),
    "200m": (227_897_600, 1.7e-4),
    "400m": (400_083_456, 1.1e-4),
}
DIGITS = {
    "digits_10k": (13_056, 1.8e-2),
    "digits_40k": (41_216, 8e-3),
    "digits_140k": (143_616, 3.3e-3),
    "digits_500k": (532_736, 1.3e-3),
}
SIZES = SC09 | DIGITS


def load(size):
    return make_experiment(named_config(f"scaling:{size}"))


def counted(model):
    """Parameters of a gated Poolformer with RG-LRUs, one group a channel, by hand."""
    d, e, n = model.width, model.mixer.recurrent_width, model.mixer.num_gate_blocks
    gates = 2 * (e * (e // 2) // n + e // 2)
    rg_lru = (d * e + e) + gates + 2 * (e // 2) + (e * d + d)
    mixer_block = 2 * d + rg_lru + 2 * (d * d + d)
    mlp_block = 2 * d + 2 * (d * 2 * d + 2 * d) + (2 * d * d + d)
    layers = 2 * sum(model.layers[:-1]) + model.layers[-1]
    pools = sum(2 * (factor * d + d) for factor in model.pool_factors)
    head = 2 * d + d * 256 + 256
    return layers * (mixer_block + mlp_block) + pools + head


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_parameter_count_and_learning_rate(size):
    experiment = load(size)
    assert counted(experiment.model) == SIZES[size][0]
    assert experiment.train.learning_rate == pytest.approx(SIZES[size][1])


@pytest.mark.nightly
@pytest.mark.parametrize("size", SIZES)
def test_every_size_builds_with_its_parameter_count(size):
    assert count_params(load(size).model.build()) == SIZES[size][0]


def test_the_baseline_is_the_published_recipe():
    assert load("7m") == make_experiment(named_config("sc09"))


@pytest.mark.parametrize(("ladder", "middle"), [(SC09, "7m"), (DIGITS, "digits_140k")])
def test_rates_follow_the_rule(ladder, middle):
    """All read the same samples, so that N^-0.713 is left; both rates are of two digits."""
    experiments = {size: load(size) for size in ladder}
    parameters, rate = ladder[middle][0], experiments[middle].train.learning_rate
    for size, experiment in experiments.items():
        expected = rate * (ladder[size][0] / parameters) ** -0.713
        assert experiment.train.learning_rate == pytest.approx(expected, rel=0.06)
    read = {
        experiment.train.batch_size * experiment.train.num_steps * experiment.data.training_length
        for experiment in experiments.values()
    }
    assert len(read) == 1


def test_digits_read_a_quarter_of_the_samples_in_batches_by_the_rule():
    digits, train = make_experiment(named_config("digits")).train, load("digits_140k").train
    assert train.batch_size * train.num_steps * 4 == digits.batch_size * digits.num_steps
    assert train.batch_size == round(digits.batch_size * 0.25**0.571)
    assert train.learning_rate == pytest.approx(digits.learning_rate * 0.25**0.307, rel=0.02)


def test_widths_fill_the_lanes_of_a_tpu_from_the_baseline_on():
    models = [load(size).model for size in SC09]
    assert all(model.width % 128 == 0 for model in models if model.width >= 128)
    # The step from one size to the next.
    sizes = [parameters for parameters, _ in SC09.values()]
    steps = [after / before for before, after in itertools.pairwise(sizes)]
    assert min(steps) > 1.7 and max(steps) < 3.1
    for model in models:
        # Blocks of eight columns, as in the baseline.
        assert model.mixer.recurrent_width == 2 * model.width
        assert model.mixer.num_gate_blocks * 8 == model.mixer.recurrent_width


def test_the_docstring_lists_no_size_that_is_not_there():
    text = config_file("scaling").read_text().split('"""')[1]
    assert {*re.findall(r"scaling\.py:(\w+)", text)} <= {*SIZES}
