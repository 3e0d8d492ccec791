"""What `--reference` means, and what its hash depends on."""

import dataclasses

import pytest

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.experiment import make_experiment, write_experiment
from poolformer_jax.experiment.references import choose_reference, open_reference
from tests.evals.scores.recordings import tone


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "run").mkdir()
    write_experiment(tmp_path / "run", make_experiment({"data": {"name": "digits_tiny"}}))
    return tmp_path / "run"


def choose(tmp_path, reference, *, workdir=None, partial=False):
    samples = tmp_path / "samples"
    return choose_reference(workdir, reference, "data", samples=samples, partial=partial)


def test_data_set_and_split_or_a_folder(tmp_path, workdir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("real", "sc09:train", "clips:test", "samples"):
        (tmp_path / name).mkdir()
    chosen = choose(tmp_path, "sc09:test", partial=True)
    assert chosen.name == "sc09:test" and chosen.folder is None
    assert (chosen.data.partial, chosen.data.data_dir) == (True, "data")
    # A data set of that name goes first; other folders may have a colon.
    assert choose(tmp_path, "sc09:train").folder is None
    assert choose(tmp_path, "./sc09:train").name == "sc09:train"
    for name in ("real", "clips:test"):
        chosen = choose(tmp_path, name)
        assert (chosen.name, chosen.data, chosen.split) == (name, None, None)
    # A run's data set stays beside a folder, for baselines and the classifier's accuracy.
    assert choose(tmp_path, None, workdir=workdir).name == "digits_tiny:train"
    chosen = choose(tmp_path, "real", workdir=workdir)
    assert (chosen.name, chosen.data.name, chosen.split) == ("real", "digits_tiny", None)
    (tmp_path / "link").symlink_to(tmp_path / "samples")
    with pytest.raises(ValueError, match="link is the folder of the generated clips"):
        choose(tmp_path, "link")


def test_hash_of_a_folder_is_of_its_clips_and_how_they_are_read(tmp_path):
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, tone(1), 16_000)
    chosen = choose(tmp_path / "elsewhere", str(tmp_path))

    def opened(resample=False):
        return open_reference(chosen, class_names=("yes", "no"), resample=resample)

    before = opened()
    assert before.splits == {} and before.data_sha256 is None
    assert before.about == {
        "name": str(tmp_path),
        "num_clips": 2,
        "folder": str(tmp_path),
        "files_sha256": before.sha256,
    }
    assert opened(resample=True).reading != before.reading
    (tmp_path / "notes.txt").write_text("not a clip")
    assert opened().sha256 == before.sha256
    write_wav(tmp_path / "b.wav", tone(2), 16_000)
    assert opened().sha256 != before.sha256


def test_folder_beside_a_data_set(tmp_path, tiny_config):
    write_wav(tmp_path / "a.wav", tone(1), 16_000)
    chosen = choose(tmp_path / "elsewhere", str(tmp_path))
    chosen = dataclasses.replace(chosen, data=tiny_config)
    opened = open_reference(chosen, class_names=DIGIT_WORDS, resample=False)
    assert opened.clips.num_clips == 1 and len(opened.splits["test"]) == 20
    assert opened.data_sha256 not in (None, opened.sha256)
