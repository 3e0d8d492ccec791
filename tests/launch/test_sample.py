"""launch.sample: folders of clips that are drawn, completed, replaced."""

import contextlib
import csv
import errno
import io
import json
import re
import signal

import numpy as np
import pytest
from scipy.io import wavfile

from poolformer_jax.audio.codec import decode, encode
from poolformer_jax.audio.wav import write_wav
from poolformer_jax.data.source import open_splits
from poolformer_jax.lock import release_at_end, take_lock
from tests.launch.processes import call, finish, mistake, start, start_pod
from tests.launch.workdirs import make_workdir

# Eight side by side, one on each device.
DRAWN = ["--num_samples=5", "--length=100ms", "--seed=3"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("sampled") / "run")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A model with classes, which also saw clips without one."""
    path = tmp_path_factory.mktemp("labelled") / "run"
    sections = {"data": {"name": "digits_tiny"}, "train": {"label_dropout": 0.1}}
    return make_workdir(path, model={"num_classes": 10}, **sections)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("broken") / "run", broken=True)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A second of sound at 16 kHz."""
    path = tmp_path_factory.mktemp("prompts") / "speech.wav"
    pcm = 3000 * np.sin(np.arange(16_000) / 20)
    write_wav(path, pcm.astype(np.int16), 16_000)
    return path


def draw(workdir, out, *flags):
    """Draws clips in this process; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert call("sample", f"--workdir={workdir}", f"--out={out}", *flags) == out
    return printed.getvalue()


def clips_in(folder):
    return {path.name: wavfile.read(path)[1] for path in sorted(folder.glob("sample_*.wav"))}


def rows_in(folder):
    with open(folder / "log_likelihoods.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_clips(folder, expected):
    found, expected = clips_in(folder), clips_in(expected)
    assert found.keys() == expected.keys()
    for name, pcm in found.items():
        np.testing.assert_array_equal(pcm, expected[name], err_msg=name)


@pytest.fixture(scope="module")
def drawn(workdir, tmp_path_factory):
    """Five clips, and what was printed."""
    out = tmp_path_factory.mktemp("drawn")
    return out, draw(workdir, out, *DRAWN)


def test_clips_table_and_page(drawn):
    out, printed = drawn
    assert "5 clips of 0.10 s in" in printed and "x real time" in printed
    assert re.search(r"[\d,]+ samples/s", printed)
    assert f"5 clips in {out}, drawn with the weights of step 0" in printed
    assert f"Listen: {out / 'index.html'}" in printed
    clips = clips_in(out)
    assert list(clips) == [f"sample_{clip:05d}.wav" for clip in range(5)]
    assert all(pcm.shape == (1600,) and pcm.std() > 0 for pcm in clips.values())
    assert wavfile.read(out / "sample_00000.wav")[0] == 16_000
    assert len({pcm.tobytes() for pcm in clips.values()}) == 5
    rows = rows_in(out)
    assert sorted(row["file"] for row in rows) == list(clips)
    likelihoods = [float(row["log_likelihood"]) for row in rows]
    assert likelihoods == sorted(likelihoods)
    # Parameters drawn at random know nothing: about 8 bits.
    assert all(6 < float(row["bits_per_sample"]) < 11 for row in rows)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["seed"] == 3 and settings["length"] == 1600 and settings["step"] == 0
    assert (out / "index.html").read_text().count("<audio") == 5


@pytest.mark.nightly
def test_lost_clips_are_drawn_again_alone(drawn, workdir, tmp_path):
    """Also those that a full disk or a kill cut off."""
    for path in drawn[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sample_00001.wav").unlink()
    (tmp_path / "sample_00003.wav").write_bytes(b"RIFF")
    (tmp_path / "sample_00004.wav.4711.part").touch()
    kept = (tmp_path / "sample_00000.wav").stat().st_mtime_ns
    printed = draw(workdir, tmp_path, *DRAWN)
    assert "3 clips were in" in printed and "2 clips of 0.10 s" in printed
    assert (tmp_path / "sample_00000.wav").stat().st_mtime_ns == kept
    assert_equal_clips(tmp_path, drawn[0])
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("rows_*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (KeyboardInterrupt(), "2 of 5 clips are in {out}"),
        (OSError(errno.ENOSPC, "No space left on device"), "2 of 5 clips are kept: make room"),
    ],
    ids=["interrupted", "disk full"],
)
def test_a_run_that_ends_early_says_what_is_kept(workdir, tmp_path, monkeypatch, error, ending):
    def fail(path, pcm, rate):
        if path.name == "sample_00002.wav":
            raise error
        write_wav(path, pcm, rate)

    monkeypatch.setattr("poolformer_jax.sampling.folder.write_wav", fail)
    flags = [f"--workdir={workdir}", f"--out={tmp_path}", *DRAWN]
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt) as end:
            call("sample", *flags)
        (message,) = end.value.__notes__
    else:
        message = mistake("sample", *flags)
    assert ending.format(out=tmp_path) in message
    with release_at_end():  # It is released, and taken again.
        take_lock(tmp_path)
        assert f"--out={tmp_path} is in use" in mistake("sample", *flags)


@pytest.mark.slow
def test_killed_run_is_completed(drawn, workdir, tmp_path):
    # On one device: a clip does not depend on devices or on those beside it either.
    flags = [f"--workdir={workdir}", f"--out={tmp_path}", *DRAWN, "--batch_size=1"]
    process = start("sample", *flags, XLA_FLAGS="")
    while not (tmp_path / "sample_00001.wav").exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    left = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sample_*.wav")}
    assert not (tmp_path / "log_likelihoods.csv").exists()
    code, printed, err = finish(start("sample", *flags, XLA_FLAGS=""))
    assert code == 0, err
    assert "clips were in" in printed
    (first, *_) = sorted(left)
    assert first.stat().st_mtime_ns == left[first]  # Not drawn again.
    assert_equal_clips(tmp_path, drawn[0])
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("rows_*"))


@pytest.mark.slow
def test_overwrite_replaces_another_draw_alone(workdir, tmp_path):
    flags = ["--num_samples=2", "--length=100ms"]
    draw(workdir, tmp_path, *flags, "--seed=1")
    first = clips_in(tmp_path)
    assert "2 clips were in" in draw(workdir, tmp_path, *flags, "--seed=1", "--overwrite")
    place = [f"--workdir={workdir}", f"--out={tmp_path}"]
    message = mistake("sample", *place, *flags, "--seed=4")
    assert "seed: 1 -> 4" in message and "--overwrite" in message
    # A mistake is found before anything is replaced.
    mistaken = ["--overwrite", "--seed=2", "--num_real=1", "--data_dir=/proc/none"]
    assert "/proc/none" in mistake("sample", *place, *flags, *mistaken)
    assert clips_in(tmp_path).keys() == first.keys()
    assert "were in" not in draw(workdir, tmp_path, *flags, "--seed=2", "--overwrite")
    for name, pcm in clips_in(tmp_path).items():
        assert np.any(pcm != first[name])


def test_prompt_is_continued_beside_real_clips(workdir, speech, tmp_path, tiny_config):
    run = tmp_path / "run"
    run.mkdir()
    config = json.loads((workdir / "config.json").read_text())
    config["data"] |= {"name": "digits_tiny"}
    (run / "config.json").write_text(json.dumps(config))
    (run / "checkpoints").symlink_to(workdir / "checkpoints")
    flags = ["--num_samples=2", "--length=60ms", f"--prompt={speech}", "--prompt_length=20ms"]
    out = tmp_path / "out"
    draw(run, out, *flags, "--num_real=3", f"--data_dir={tiny_config.data_dir}")
    clips = list(clips_in(out).values())
    np.testing.assert_array_equal(clips[0][:320], clips[1][:320])
    assert np.any(clips[0][320:] != clips[1][320:])
    heard = wavfile.read(speech)[1][:320].astype(float)
    assert np.corrcoef(clips[0][:320], heard)[0, 1] > 0.99  # Scaled, and 8 bit.
    assert {row["num_samples"] for row in rows_in(out)} == {"640"}
    real = [wavfile.read(path) for path in sorted(out.glob("real_*.wav"))]
    assert len(real) == 3 and all(rate == 16_000 and pcm.max() > 30_000 for rate, pcm in real)
    assert (out / "index.html").read_text().count("<audio") == 5


@pytest.mark.slow
def test_labels_are_drawn_in_turn_beside_recordings_of_the_same(labelled, tmp_path, tiny_config):
    flags = ["--num_samples=12", "--length=160", "--label=cycle", "--guidance=1.5"]
    draw(labelled, tmp_path, *flags, "--num_real=12", f"--data_dir={tiny_config.data_dir}")
    rows = {int(row["clip"]): int(row["label"]) for row in rows_in(tmp_path)}
    assert rows == {clip: clip % 10 for clip in range(12)}
    real = [wavfile.read(path)[1] for path in sorted(tmp_path.glob("real_*.wav"))]
    clips = {label: [] for label in range(10)}
    for clip in open_splits(tiny_config)["validation"]:
        heard = decode(encode(clip["audio"], codec="mu_law", normalize=True), codec="mu_law")
        clips[clip["label"]].append(heard)
    assert len(real) == 12 and len({pcm.tobytes() for pcm in real}) == 12
    for number, pcm in enumerate(real):
        assert any(np.array_equal(pcm, clip) for clip in clips[number % 10])


@pytest.mark.slow
def test_a_process_that_fails_does_not_leave_the_other_waiting(broken):
    pod = start_pod("sample", 2, f"--workdir={broken}", "--num_samples=2", "--length=160")
    outputs = [finish(process) for process in pod]
    assert [code for code, _, _ in outputs] == [1, 1]
    assert all("error: the logits of clip" in err for _, _, err in outputs)


@pytest.mark.nightly
def test_processes_without_a_common_folder_all_stop(workdir, tmp_path):
    # Each takes the relative path in a folder of its own, as on two hosts.
    homes = [tmp_path / name for name in ("one", "other")]
    for home in homes:
        home.mkdir()
    flags = [f"--workdir={workdir}", "--num_samples=2", "--length=160", "--out=clips"]
    pod = start_pod("sample", 2, *flags, folders=homes)
    outputs = [finish(process) for process in pod]
    assert [code for code, _, _ in outputs] == [1, 1]
    message = "out: clips on process 0, another folder (clips) on process 1"
    assert all(message in err for _, _, err in outputs), outputs


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(drawn, workdir, tmp_path):
    flags = [*DRAWN, "--batch_size=2"]
    pod = start_pod("sample", 2, f"--workdir={workdir}", f"--out={tmp_path}", *flags)
    outputs = [finish(process) for process in pod]
    assert [code for code, _, _ in outputs] == [0, 0], [err for _, _, err in outputs]
    assert_equal_clips(tmp_path, drawn[0])
    files = [[row["file"] for row in rows_in(folder)] for folder in (drawn[0], tmp_path)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"--length is missing; the model's clips last --length=1s"),
        (["--length=soon"], r"--length=soon is no duration; write seconds as 1.5s"),
        (["--length=1s", "--label=3"], "the model has no classes"),
        (["--length=1s", "--guidance=2"], "--guidance=2 needs a --label"),
        (["--length=1s", "--prompt_length=1s"], "--prompt_length=16000 needs a --prompt"),
        (["--length=0.5s", "--prompt={speech}"], "16000 samples leaves nothing to draw of .* 8000"),
        (
            ["--length=3s", "--prompt={speech}", "--prompt_length=2s"],
            r"--prompt_length is 32000 samples; .*speech.wav has 16000",
        ),
        (["--length=1s", "--prompt={speech}.mp3"], r"speech.wav.mp3"),
        (["--length=1s", "--prompt={eight}"], r"has 8000 Hz, the model 16000 Hz; .*-ar 16000"),
        (["--length=1s", "--prompt={empty}"], r"empty.wav is empty"),
        (["--length=1s", "--temperature=-1"], "temperature -1.0 must be finite and not negative"),
        (["--length=1s", "--out=gs://bucket/clips"], "--out=gs://bucket/clips is not a path"),
        (["--length=1s", "--out="], "--out '' must be a path"),
        (["--length=1s", "--data_dir="], "data_dir must be a path"),
        (["--length=99999999999999s"], "--length=99999999999999s is more than a day of audio"),
        (["--length=1s", "--num_samples=10000000000"], "num_clips 10000000000 must be at most"),
        (["--length=24h", "--num_samples=1000"], "--length=24h is no duration"),
        (
            ["--length=80000s", "--num_samples=9999999"],
            "take 25,599,997.9 GB, and the disk of",
        ),
        (["--length=86400s", "--batch_size=8"], "--batch_size 8 must be at most 1 for clips of"),
        (["--length=1s", "--batch_size=0"], "--batch_size=0"),
        (["--length=1s", "--batch_size=12"], "--batch_size 12 does not split over 8 devices; .*16"),
        (["--length=1s", "--step=9"], "no checkpoint of step 9"),
        (["--length=1s", "--workdir={empty}"], "train one with `python -m launch.train"),
    ],
)
def test_mistakes_end_in_one_line(workdir, speech, tmp_path, flags, message):
    eight, empty = tmp_path / "eight.wav", tmp_path / "empty.wav"
    write_wav(eight, np.ones(8_000, np.int16), 8_000)
    write_wav(empty, np.zeros(0, np.int16), 16_000)
    flags = [flag.format(speech=speech, eight=eight, empty=empty) for flag in flags]
    out = tmp_path / "out"
    found = mistake("sample", f"--workdir={workdir}", f"--out={out}", *flags)
    assert re.search(message, found) and len(found.splitlines()) == 1
    assert not out.exists()


def test_files_of_others_are_named_before_anything_is_drawn(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: pytest.fail("JAX was used"))
    place = [f"--workdir={workdir}", f"--out={tmp_path}", "--length=160", "--num_real=1"]
    for name in ("index.html", "real_00000.wav", "sample_00003.wav"):
        (tmp_path / name).write_text("mine")
        for flags in ([], ["--overwrite"]):
            message = mistake("sample", *place, *flags)
            assert f"{tmp_path / name} is in the way and is kept" in message
            assert "move it away, or choose another folder" in message
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("dropout", "flags", "message"),
    [
        (0.1, ["--label=10"], "--label=10 must be a class, 0 to 9, or cycle"),
        (0.1, ["--label=one"], "--label=one must be a class"),
        (0.0, [], r"--label is missing: .* \(train.label_dropout is 0\); give 0 to 9, or cycle"),
        (0.0, ["--label=1", "--guidance=2"], "--guidance=2 compares with clips without a label"),
    ],
)
def test_labels_that_the_model_does_not_know(labelled, tmp_path, dropout, flags, message):
    config = json.loads((labelled / "config.json").read_text())
    config["train"]["label_dropout"] = dropout
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert re.search(message, mistake("sample", f"--workdir={tmp_path}", "--length=160", *flags))


def test_workdir_without_a_checkpoint(workdir, tmp_path):
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    message = mistake("sample", f"--workdir={tmp_path}", "--length=1s")
    assert re.match(r"error: .*checkpoints is missing: the run has no checkp", message)


def test_logits_that_are_not_finite_stop_with_their_place(broken, tmp_path):
    flags = [f"--workdir={broken}", f"--out={tmp_path}", "--length=160", "--num_samples=1"]
    message = mistake("sample", *flags)
    assert message.startswith("error: the logits of clip 0 are not finite at sample 0")


@pytest.mark.slow
def test_a_pretrained_model_draws_each_class(tmp_path):
    flags = ["--pretrained=digits", f"--workdir={tmp_path}", "--num_samples=10", "--label=cycle"]
    folder = call("sample", *flags, "--length=320")
    rows = list(csv.DictReader((folder / "log_likelihoods.csv").open()))
    assert sorted(int(row["label"]) for row in rows) == list(range(10))
    again = call("sample", *flags, "--length=320", f"--out={tmp_path / 'again'}")
    assert clips_in(again).keys() == clips_in(folder).keys()
    assert "holds another model" in mistake(
        "eval_likelihood", "--pretrained=digits", f"--workdir={make_workdir(tmp_path / 'run')}"
    )
