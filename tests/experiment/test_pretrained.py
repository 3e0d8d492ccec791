"""What comes with the package does what its card says."""

import pytest

from poolformer_jax.classifier.clips import read_labelled_clips
from poolformer_jax.classifier.files import load_classifier
from poolformer_jax.classifier.inference import classify_labelled
from poolformer_jax.data.source import open_splits
from poolformer_jax.experiment.pretrained import pretrained_classifier


def test_the_classifier_of_digits_knows_them(tiny_config):
    saved = load_classifier(pretrained_classifier("digits"))
    clips = read_labelled_clips(open_splits(tiny_config)["test"])
    found = classify_labelled(saved.config, saved.params, saved.stats, clips, batch_size=20)
    # Two voices that it never heard; on all ten it is right 997 times of 1,000.
    assert found.accuracy >= 0.95


def test_other_data_has_none():
    with pytest.raises(ValueError, match="none for fsdd comes with the package: make one"):
        pretrained_classifier("fsdd")
