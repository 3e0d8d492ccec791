"""What comes with the package does what its card says."""

import jax
import pytest

from poolformer_jax import experiment as ex
from poolformer_jax.classifier.clips import read_labelled_clips
from poolformer_jax.classifier.files import load_classifier
from poolformer_jax.classifier.inference import classify_labelled
from poolformer_jax.data.source import open_splits
from poolformer_jax.experiment.pretrained import FOLDER, pretrained_classifier


def test_the_classifier_of_digits_knows_them(tiny_config):
    saved = load_classifier(pretrained_classifier("digits"))
    clips = read_labelled_clips(open_splits(tiny_config)["test"])
    found = classify_labelled(saved.config, saved.params, saved.stats, clips, batch_size=20)
    # Two voices that it never heard; on all ten it is right 997 times of 1,000.
    assert found.accuracy >= 0.95


def test_other_data_has_none():
    with pytest.raises(ValueError, match="none for fsdd comes with the package: make one"):
        pretrained_classifier("fsdd")


def test_a_pretrained_model_is_unpacked_once_and_replaces_nothing(tmp_path):
    workdir = ex.unpack_pretrained("digits", tmp_path / "model")
    assert ex.unpack_pretrained("digits", workdir) == workdir
    experiment, params = ex.load_pretrained("digits")
    assert ex.read_experiment(workdir) == experiment and experiment.model.num_classes == 10
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1_804_800
    card = (FOLDER / "digits" / "README.md").read_text()
    assert "1,804,800" in card and "Not for" in card
    assert (FOLDER / "digits" / "parameters.npz").stat().st_size < 4e6
    (workdir / "parameters.npz").write_bytes(b"of another model")
    with pytest.raises(ex.UserError, match="holds another model than --pretrained=digits"):
        ex.unpack_pretrained("digits", workdir)
    with pytest.raises(ex.UserError, match="=sc09 does not come with the package; known: digits"):
        ex.load_pretrained("sc09")
