import subprocess
import sys

import pytest

from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (ClassifierConfig, {"kind": "resnext"}, "kind is 'resnext'; .* 'resnext29_8x64d' or 'sma"),
        (ClassifierConfig, {"num_classes": 1}, "num_classes 1 must be at least 2"),
        (ClassifierConfig, {"num_classes": 10.0}, "num_classes is 10.0; it must be int"),
        (ClassifierConfig, {"mel_padding": "edge"}, "mel_padding is 'edge'; .* 'reflect' or 'con"),
        (AugmentConfig, {"probability": 1.5}, r"probability 1.5 must be in \[0, 1\]"),
        (AugmentConfig, {"max_speed": 1.0}, r"max_speed 1.0 must be in \[0, 1\)"),
        (AugmentConfig, {"min_amplitude": 2.0}, "min_amplitude 2.0 .* at most max_amplitude 1.1"),
        (AugmentConfig, {"max_shift": 32}, "max_shift 32 must be in 0 to 31 frames"),
    ],
)
def test_impossible_configurations_are_errors(config, fields, message):
    # Not on construction: the types that the tests check would be violated there.
    made = config()
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    with pytest.raises(ValueError, match=message):
        made.__post_init__()


def test_configurations_load_no_jax():
    program = "import sys, poolformer_jax.classifier.config; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
