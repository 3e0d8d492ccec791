import dataclasses

import jax
import numpy as np
import pytest

from poolformer_jax.classifier.augmentation import draw_augmentation, draw_noise_share
from poolformer_jax.classifier.config import AugmentConfig

CONFIG = AugmentConfig()
NEUTRAL = {"amplitude": 1.0, "speed": 1.0, "stretch": 1.0, "shift": 0.0, "noise": 0.0}


def draw(config, num_clips=4000, seed=0):
    key = jax.random.key(seed)
    drawn = draw_augmentation(config, key, num_clips)._asdict()
    return {
        name: np.asarray(values)
        for name, values in {**drawn, "noise": draw_noise_share(config, key, num_clips)}.items()
    }


def test_changes_are_made_at_their_rate_and_apart_from_each_other():
    drawn = draw(dataclasses.replace(CONFIG, probability=0.3))
    made = np.stack([drawn[name] != neutral for name, neutral in NEUTRAL.items()])
    # Four standard errors of 4,000 draws; one in 17 shifts that are made is by 0 frames.
    expected = 0.3 * np.array([1, 1, 1, 16 / 17, 1])
    assert np.abs(made.mean(1) - expected).max() < 4 * np.sqrt(0.3 * 0.7 / 4000)
    together = np.corrcoef(made) - np.eye(5)
    assert np.abs(together).max() < 4 / np.sqrt(4000)


def test_probability_0_changes_nothing():
    for name, values in draw(dataclasses.replace(CONFIG, probability=0.0)).items():
        assert (values == NEUTRAL[name]).all()


def test_ranges_are_the_published_ones():
    drawn = draw(dataclasses.replace(CONFIG, probability=1.0))
    for values, low, high in (
        (drawn["amplitude"], 0.7, 1.1),
        (1 / drawn["speed"], 0.8, 1.2),
        (drawn["stretch"], 0.8, 1.2),
        (drawn["noise"], 0.0, 0.45),
    ):
        assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
        # Uniform: mean and standard deviation, each within four standard errors.
        spread = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 4 * spread / np.sqrt(4000)
        assert abs(values.std() / spread - 1) < 4 / np.sqrt(2 * 4000)
    shifts, counts = np.unique(drawn["shift"], return_counts=True)
    assert shifts.tolist() == list(range(-8, 9))
    assert np.abs(counts - 4000 / 17).max() < 4 * np.sqrt(4000 / 17)


def test_draws_follow_the_key():
    one, same, other = draw(CONFIG, 50), draw(CONFIG, 50), draw(CONFIG, 50, seed=1)
    for name in NEUTRAL:
        assert (one[name] == same[name]).all() and (one[name] != other[name]).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"probability": 1.5}, r"probability 1.5 must be in \[0, 1\]"),
        ({"max_speed": 1.0}, r"max_speed 1.0 must be in \[0, 1\)"),
        ({"min_amplitude": 2.0}, "min_amplitude 2.0 .* at most max_amplitude 1.1"),
        ({"max_shift": 32}, "max_shift 32 must be in 0 to 31 frames"),
    ],
)
def test_impossible_ranges_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**fields)
