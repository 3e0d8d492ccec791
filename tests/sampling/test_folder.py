import csv
import math
import os

import jax
import numpy as np
import pytest
from scipy.io import wavfile

from poolformer_jax.audio.codec import decode
from poolformer_jax.ops.draw import Draw
from poolformer_jax.sampling import folder as sample_folder
from poolformer_jax.sampling.clips import draw_samples, hash_params
from poolformer_jax.sampling.folder import (
    SampleFolder,
    check_folder,
    clip_path,
    make_row,
    read_table,
)
from poolformer_jax.sampling.streaming import generate
from tests.training.tiny import MODEL, start_state

SETTINGS = {"seed": 7, "step": 100, "temperature": 1.0, "prompt_sha256": None}
LENGTH = 20


def open_folder(path, settings=SETTINGS, **options):
    return SampleFolder(path, settings, length=LENGTH, sample_rate=16_000, **options)


def pcm_of(clip):
    return np.random.default_rng(clip).integers(-(2**15), 2**15, LENGTH).astype(np.int16)


def row_of(clip, bits=2.0):
    return make_row(clip, seed=7, label=None, log_probs=np.full(LENGTH, -bits * math.log(2)))


def fill(folder, clips):
    for clip in clips:
        folder.add(row_of(clip, bits=3.0 - 0.1 * clip), pcm_of(clip))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clips"


@pytest.fixture
def folder(path):
    folder = open_folder(path)
    folder.start(num_processes=3)
    return folder


def test_row_sums_in_nats_and_means_in_bits():
    log_probs = np.float32(-np.random.default_rng(0).exponential(size=1000))
    row = make_row(3, seed=7, label=2, log_probs=log_probs)
    assert row.log_likelihood == pytest.approx(math.fsum(log_probs.tolist()), rel=1e-12)
    assert row.bits_per_sample * 1000 * math.log(2) == pytest.approx(-row.log_likelihood)
    assert (row.clip, row.seed, row.label, row.num_samples) == (3, 7, 2, 1000)


def test_clips_are_wav_files_with_their_samples(folder, path):
    fill(folder, range(3))
    for clip in range(3):
        rate, pcm = wavfile.read(clip_path(path, clip))
        assert rate == 16_000 and pcm.dtype == np.int16
        np.testing.assert_array_equal(pcm, pcm_of(clip))


def test_table_is_sorted_from_the_least_likely_on(folder, path):
    for clip, bits in enumerate((2.5, 4.0, 1.0, 3.0)):
        folder.add(row_of(clip, bits), pcm_of(clip))
    rows = folder.finish(4)
    assert [row.clip for row in rows] == [1, 3, 0, 2]
    with open(path / "log_likelihoods.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == [f"sample_0000{i}.wav" for i in (1, 3, 0, 2)]
    likelihoods = [float(line["log_likelihood"]) for line in lines]
    assert likelihoods == sorted(likelihoods)
    assert {line["seed"] for line in lines} == {"7"} and {line["label"] for line in lines} == {""}
    assert read_table(path) == rows  # To the last bit.
    assert not list(path.glob("rows_*"))


def test_interrupted_folder_knows_its_complete_clips(folder, path):
    fill(folder, range(3))
    again = open_folder(path)
    assert again.rows == folder.rows and sorted(again.rows) == [0, 1, 2]


def test_half_written_clips_are_drawn_again(folder, path):
    fill(folder, range(4))
    content = clip_path(path, 1).read_bytes()
    clip_path(path, 1).write_bytes(content[:-10])  # Cut off.
    clip_path(path, 2).unlink()
    for name in ("sample_00003.wav", "settings.json"):
        (path / f"{name}.4711.part").write_bytes(b"RIFF")  # Killed while writing.
    journal = path / "rows_0.jsonl"
    journal.write_text(journal.read_text() + '\n{"clip": 4, "se')  # Killed while noting.
    again = open_folder(path)
    assert sorted(again.rows) == [0, 3]
    fill(again, [1, 2, 4])
    assert [row.clip for row in again.finish(5)] == [0, 1, 2, 3, 4]
    assert clip_path(path, 1).read_bytes() == content
    assert sorted(file.suffix for file in path.iterdir()) == [".csv", *[".json"] * 2, *[".wav"] * 5]


def test_finished_folder_can_be_extended(folder, path):
    fill(folder, range(2))
    folder.finish(2)
    again = open_folder(path)
    assert sorted(again.rows) == [0, 1]
    again.start()
    fill(again, [2])
    assert len(again.finish(3)) == 3


def test_processes_fill_one_folder(folder, path):
    others = [open_folder(path, process_index=index) for index in range(3)]
    for index, other in enumerate(others):
        fill(other, range(index, 7, 3))
    assert [row.clip for row in others[0].finish(7)] == list(range(7))


def test_missing_clips_are_not_passed_over(folder):
    fill(folder, [0, 2])
    with pytest.raises(RuntimeError, match=r"clips \[1\] of 3 were not drawn"):
        folder.finish(3)


def test_rows_of_deleted_clips_are_not_listed(folder, path):
    fill(folder, range(4))
    folder.finish(4)
    clip_path(path, 3).unlink()
    again = open_folder(path)
    assert [row.clip for row in again.finish(3)] == [0, 1, 2]
    assert [row.clip for row in read_table(path)] == [0, 1, 2]


def test_half_cleared_folder_still_belongs_to_the_old_draw(folder, path, monkeypatch):
    fill(folder, range(2))
    folder.finish(2)
    removed = []

    def unlink_once(file, missing_ok=False):
        if removed:
            raise KeyboardInterrupt
        removed.append(file)
        os.unlink(file)

    monkeypatch.setattr(type(path), "unlink", unlink_once)
    with pytest.raises(KeyboardInterrupt):
        sample_folder.clear(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="seed: 7 -> 8"):
        open_folder(path, SETTINGS | {"seed": 8})
    # What is left is known to be the program's own, and is cleared the next time.
    assert sorted(open_folder(path).rows) == [1] and removed[0].name == "sample_00000.wav"
    sample_folder.clear(path)
    assert [file.name for file in path.iterdir()] == ["written_files.json"]


def test_another_draw_into_the_folder_is_refused(folder, path):
    fill(folder, [0])
    other = SETTINGS | {"seed": 8, "temperature": 0.5}
    with pytest.raises(ValueError, match=r"(?s)seed: 7 -> 8\n  temperature: 1.0 -> 0.5\n.*--over"):
        open_folder(path, other)
    sample_folder.clear(path)
    assert not open_folder(path, other).rows


def test_clips_of_unknown_origin_are_not_mixed_in(path):
    path.mkdir()
    (path / "sample_0001.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds clips but no settings.json .* are kept: choose"):
        check_folder(path, num_clips=1)


def test_clearing_leaves_foreign_files_alone(folder, path, tmp_path):
    folder.start([pcm_of(9)])
    fill(folder, [0, 1])
    folder.finish(2)
    (path / "index.html").write_text("plays the old clips")
    clip_path(path, 1).unlink()
    (tmp_path / "mine.wav").write_text("mine")
    clip_path(path, 1).symlink_to(tmp_path / "mine.wav")
    foreign = ["notes.txt", "real_00001.wav", "rows_mine.jsonl", "sample_00007.wav", "x.part"]
    for name in foreign:
        (path / name).write_text("mine")
    sample_folder.clear(path)
    left = sorted(file.name for file in path.iterdir())
    assert left == sorted([*foreign, "real_00000.wav", "written_files.json"])
    assert (tmp_path / "mine.wav").read_text() == "mine"  # Of a link, the link is removed.


@pytest.mark.parametrize(
    ("name", "begun"),
    [
        ("index.html", False),
        ("real_00001.wav", False),
        ("sample_00003.wav", False),
        ("sample_00003.wav", True),  # Interrupted before clip 3.
        ("real_00001.wav", True),
        ("log_likelihoods.csv", False),
        ("settings.json", False),
    ],
)
def test_foreign_files_are_in_the_way(path, name, begun):
    path.mkdir()
    if begun:
        folder = open_folder(path)
        folder.start([pcm_of(9)])
        fill(folder, range(3))
    (path / name).write_text('{"theme": "dark"}')
    with pytest.raises(FileExistsError, match=rf"{name} is in the way and is kept: .* move it aw"):
        check_folder(path, num_clips=4, num_real=2)
    sample_folder.clear(path)  # As with --overwrite.
    assert (path / name).read_text() == '{"theme": "dark"}'


def test_a_foreign_clip_that_comes_later_is_kept(folder, path):
    clip_path(path, 1).write_text("mine")
    fill(folder, [0])
    with pytest.raises(FileExistsError, match=r"sample_00001.wav is in the way"):
        fill(folder, [1])
    assert clip_path(path, 1).read_text() == "mine" and sorted(folder.rows) == [0]


def test_killed_between_row_and_clip_nothing_is_lost(folder, path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    fill(folder, [0])
    monkeypatch.setattr(sample_folder, "write_wav", killed)
    with pytest.raises(KeyboardInterrupt):
        fill(folder, [1])
    monkeypatch.undo()
    check_folder(path, num_clips=2)
    again = open_folder(path)
    assert sorted(again.rows) == [0]
    fill(again, [1])
    assert len(again.finish(2)) == 2


EARLIER = {"step": 1, "weights": "ema", "parameters_sha256": "0", "seed": 7, "length": LENGTH}


@pytest.mark.parametrize("finished", [False, True])
def test_folder_of_a_version_without_a_list_is_completed_or_replaced(path, finished):
    folder = open_folder(path, EARLIER)
    folder.start([pcm_of(9)])
    fill(folder, range(2))
    if finished:
        folder.finish(2)
        (path / "index.html").write_text("plays them")
    else:  # That version noted a row after its clip.
        clip_path(path, 2).write_bytes(b"half")
    (path / "written_files.json").unlink()
    check_folder(path, num_clips=3, num_real=1)
    open_folder(path, EARLIER).start()  # And interrupted.
    check_folder(path, num_clips=3, num_real=1)
    again = open_folder(path, EARLIER)
    assert sorted(again.rows) == [0, 1]
    again.start()
    fill(again, [2])
    assert len(again.finish(3)) == 3
    (path / "written_files.json").unlink()
    sample_folder.clear(path)
    assert sorted(file.name for file in path.iterdir()) == ["real_00000.wav", "written_files.json"]
    check_folder(path, num_clips=3, num_real=1)


@pytest.mark.parametrize("name", ["written_files.json", "log_likelihoods.csv"])
def test_without_its_list_a_folder_is_left_alone(folder, path, name):
    fill(folder, [0])
    folder.finish(1)
    (path / name).write_text("file,clip\nsample_00000.wav,x\n")
    with pytest.raises(ValueError, match=rf"{name} is damaged, .* choose another folder"):
        check_folder(path, num_clips=1)


def draw(folder, clips, batch_size, **options):
    draw_samples(
        folder,
        clips,
        model=MODEL.build(),
        params=start_state().params,
        seed=7,
        batch_size=batch_size,
        length=LENGTH,
        codec="mu_law",
        draw=Draw(),
        **options,
    )


def test_a_prompt_as_long_as_the_clip_leaves_nothing(folder):
    with pytest.raises(ValueError, match="prompt of 20 samples leaves nothing to draw of 20"):
        draw(folder, [0], 1, prompt=np.zeros(LENGTH, np.int32))


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_batches_give_the_clips_of_one_draw(folder, path, batch_size):
    drawn = []
    draw(folder, [0, 1, 2, 4], batch_size, on_progress=drawn.append)
    assert sum(drawn) == 4 * LENGTH
    assert sorted(folder.rows) == [0, 1, 2, 4]
    codes, log_probs = generate(MODEL.build(), start_state().params, jax.random.key(7), 5, LENGTH)
    for clip in (0, 1, 2, 4):
        pcm = wavfile.read(clip_path(path, clip))[1]
        np.testing.assert_array_equal(pcm, decode(codes[clip], codec="mu_law"))
        expected = log_probs[clip].sum(dtype=np.float64)
        assert folder.rows[clip].log_likelihood == pytest.approx(expected, rel=1e-6)


def test_a_prompt_is_in_the_clip_and_not_in_its_likelihood(folder, path):
    prompt = np.arange(6).astype(np.int32)
    draw(folder, [0, 1], 2, prompt=prompt)
    assert {row.num_samples for row in folder.rows.values()} == {LENGTH - 6}
    params = start_state().params
    _, log_probs = generate(MODEL.build(), params, jax.random.key(7), 2, LENGTH, prompt=prompt)
    for clip in range(2):
        pcm = wavfile.read(clip_path(path, clip))[1]
        np.testing.assert_array_equal(pcm[:6], decode(prompt, codec="mu_law"))
        expected = log_probs[clip, 6:].sum(dtype=np.float64)
        assert folder.rows[clip].log_likelihood == pytest.approx(expected, rel=1e-6)


def test_hash_tells_parameters_apart():
    params = start_state().params
    same = jax.tree.map(np.array, params)
    assert hash_params(params) == hash_params(same)
    same["head"]["projection"]["bias"][3] += 1e-6
    assert hash_params(params) != hash_params(same)
