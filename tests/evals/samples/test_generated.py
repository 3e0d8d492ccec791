import pytest

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.evals.samples.generated import open_generated
from poolformer_jax.sampling.folder import clip_path
from tests.evals.scores.recordings import draw, tone


def test_drawn_clips_come_with_what_is_known_of_them(tmp_path):
    folder = draw(tmp_path / "clips", 5, label_of=lambda clip: (3 * clip) % 10)
    write_wav(folder / "real_00000.wav", tone(0), 16_000)
    samples = open_generated(folder, num_classes=10)
    assert samples.paths == tuple(clip_path(folder, clip) for clip in range(5))
    assert [row.clip for row in samples.rows] == [0, 1, 2, 3, 4]
    assert samples.settings == {"seed": 0}
    batches = list(samples.clips.read(2))
    assert [batch.labels.tolist() for batch in batches] == [[0, 3], [6, 9], [2]]
    assert batches[2].names == ("sample_00004.wav",) and samples.clips.num_clips == 5


def test_clips_of_other_generators_have_neither_likelihoods_nor_labels(tmp_path):
    for name in ("b.wav", "a.wav", "real_thing.wav"):
        write_wav(tmp_path / name, tone(1), 16_000)
    samples = open_generated(tmp_path, num_classes=10)
    assert [path.name for path in samples.paths] == ["a.wav", "b.wav", "real_thing.wav"]
    assert samples.rows is None and samples.settings is None
    assert next(samples.clips.read(8)).labels is None


def test_unfinished_draw_has_no_likelihoods(tmp_path):
    samples = open_generated(draw(tmp_path / "clips", 3, finish=False), num_classes=10)
    assert samples.rows is None and samples.settings is not None


def test_some_clips_without_a_label_leave_none(tmp_path):
    folder = draw(tmp_path / "clips", 4, label_of=lambda clip: clip or None)
    assert next(open_generated(folder, num_classes=10).clips.read(8)).labels is None


def remove_clip(folder):
    clip_path(folder, 1).unlink()


def add_clip(folder):
    write_wav(folder / "other.wav", tone(1), 16_000)


def break_settings(folder):
    (folder / "settings.json").write_text("{")


def list_settings(folder):
    (folder / "settings.json").write_text("[]")


def leave_one(folder):
    for clip in (1, 2):
        clip_path(folder, clip).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_clip, r"sample_00001.wav is in log_likelihoods.csv but not in the folder"),
        (add_clip, r"other.wav is in the folder but not in log_likelihoods.csv.*of their own"),
        (break_settings, r"settings.json is not valid JSON: .*draw the clips again"),
        (
            lambda folder: (folder / "settings.json").write_text("[]"),
            r"holds a list, not a JSON object",
        ),
        (leave_one, r"holds 1 clip; scores need at least 2"),
    ],
)
def test_folders_that_cannot_be_scored(tmp_path, spoil, message):
    folder = draw(tmp_path / "clips", 3)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        open_generated(folder, num_classes=10)


def test_label_beyond_the_classifier(tmp_path):
    folder = draw(tmp_path / "clips", 3, label_of=lambda clip: 3 + clip)
    with pytest.raises(ValueError, match="labels 3 to 5, but the classifier knows 0 to 4"):
        open_generated(folder, num_classes=5)
