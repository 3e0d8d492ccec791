"""launch.sample as a user runs it."""

import csv
import json
import re
import signal

import numpy as np
import pytest
from scipy.io import wavfile

from launch.command_line import parse_duration
from poolformer_jax.audio.wav import write_wav
from tests.launch.processes import finish, start, start_pod
from tests.launch.workdirs import make_workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("sampled") / "run")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A second of sound at 16 kHz."""
    path = tmp_path_factory.mktemp("prompts") / "speech.wav"
    pcm = 3000 * np.sin(np.arange(16_000) / 20)
    write_wav(path, pcm.astype(np.int16), 16_000)
    return path


def sample(workdir, *flags, **environment):
    return start("sample", f"--workdir={workdir}", *flags, **environment)


def draw(workdir, out, *flags, **environment):
    code, printed, err = finish(sample(workdir, f"--out={out}", *flags, **environment))
    assert code == 0, err
    return printed


def clips_in(folder):
    return {path.name: wavfile.read(path) for path in sorted(folder.glob("sample_*.wav"))}


@pytest.fixture(scope="module")
def drawn(workdir, tmp_path_factory):
    """Five clips in batches of two."""
    out = tmp_path_factory.mktemp("drawn")
    printed = draw(workdir, out, "--num_samples=5", "--batch_size=2", "--length=100ms", "--seed=3")
    return out, printed


def test_clips_table_and_page(drawn):
    out, printed = drawn
    assert "5 clips of 0.10 s in" in printed and "x real time" in printed
    assert re.search(r"[\d,]+ samples/s", printed)
    clips = clips_in(out)
    assert list(clips) == [f"sample_{clip:05d}.wav" for clip in range(5)]
    for rate, pcm in clips.values():
        assert rate == 16_000 and pcm.shape == (1600,) and pcm.std() > 0
    assert len({pcm.tobytes() for _, pcm in clips.values()}) == 5
    with open(out / "log_likelihoods.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == list(clips)
    likelihoods = [float(row["log_likelihood"]) for row in rows]
    assert likelihoods == sorted(likelihoods)
    # Parameters drawn at random know nothing: about 8 bits.
    assert all(6 < float(row["bits_per_sample"]) < 11 for row in rows)
    settings = json.loads((out / "settings.json").read_text())
    assert settings["seed"] == 3 and settings["length"] == 1600 and settings["step"] == 0
    assert (out / "index.html").read_text().count("<audio") == 5


@pytest.mark.slow
def test_clip_depends_neither_on_batch_size_nor_on_devices(drawn, workdir, tmp_path):
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    flags = ["--num_samples=3", "--length=1600", "--seed=3"]
    draw(workdir, tmp_path / "other", *flags, "--batch_size=4", **two_devices)
    expected, found = clips_in(drawn[0]), clips_in(tmp_path / "other")
    assert len(found) == 3
    for name, (_, pcm) in found.items():
        np.testing.assert_array_equal(pcm, expected[name][1])


def test_killed_run_is_completed(drawn, workdir, tmp_path):
    flags = ["--num_samples=5", "--batch_size=1", "--length=0.1s", "--seed=3"]
    process = sample(workdir, f"--out={tmp_path}", *flags)
    while not (tmp_path / "sample_00001.wav").exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    left = {path: path.stat().st_mtime_ns for path in tmp_path.glob("sample_*.wav")}
    assert not (tmp_path / "log_likelihoods.csv").exists()
    printed = draw(workdir, tmp_path, *flags)
    assert "clips were in" in printed
    (first, *_) = sorted(left)
    assert first.stat().st_mtime_ns == left[first]  # Not drawn again.
    assert clips_in(tmp_path).keys() == clips_in(drawn[0]).keys()
    for name, (_, pcm) in clips_in(tmp_path).items():
        np.testing.assert_array_equal(pcm, clips_in(drawn[0])[name][1])
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("rows_*"))


def test_another_draw_needs_overwrite(drawn, workdir):
    out, _ = drawn
    before = clips_in(out)
    flags = [f"--out={out}", "--num_samples=1", "--length=100ms", "--seed=4"]
    code, _, err = finish(sample(workdir, *flags))
    assert code == 1 and "seed: 3 -> 4" in err and "--overwrite" in err
    assert clips_in(out).keys() == before.keys()


@pytest.mark.slow
def test_overwrite_replaces_another_draw_alone(workdir, tmp_path):
    flags = ["--num_samples=2", "--length=100ms", "--overwrite"]
    draw(workdir, tmp_path, *flags, "--seed=1")
    first = clips_in(tmp_path)
    assert "2 clips were in" in draw(workdir, tmp_path, *flags, "--seed=1")
    # A mistake is found before anything is replaced.
    mistaken = [*flags, "--seed=2", "--num_real=1", "--data_dir=/proc/none"]
    code, _, err = finish(sample(workdir, f"--out={tmp_path}", *mistaken))
    assert code == 1 and err.startswith("error: ") and clips_in(tmp_path).keys() == first.keys()
    assert "were in" not in draw(workdir, tmp_path, *flags, "--seed=2")
    for name, (_, pcm) in clips_in(tmp_path).items():
        assert np.any(pcm != first[name][1])


@pytest.mark.slow
def test_prompt_is_continued(workdir, speech, tmp_path):
    flags = ["--num_samples=2", "--length=60ms", f"--prompt={speech}", "--prompt_length=20ms"]
    draw(workdir, tmp_path, *flags)
    clips = [pcm for _, pcm in clips_in(tmp_path).values()]
    np.testing.assert_array_equal(clips[0][:320], clips[1][:320])
    assert np.any(clips[0][320:] != clips[1][320:])
    heard = wavfile.read(speech)[1][:320].astype(float)
    assert np.corrcoef(clips[0][:320], heard)[0, 1] > 0.99  # Scaled, and 8 bit.
    with open(tmp_path / "log_likelihoods.csv", newline="") as file:
        assert {row["num_samples"] for row in csv.DictReader(file)} == {"640"}


@pytest.mark.slow
def test_labels_are_drawn_in_turn(tmp_path):
    run = make_workdir(tmp_path / "run", model={"num_classes": 10}, train={"label_dropout": 0.1})
    out = tmp_path / "out"
    draw(run, out, "--num_samples=12", "--length=160", "--label=cycle", "--guidance=1.5")
    with open(out / "log_likelihoods.csv", newline="") as file:
        rows = {int(row["clip"]): int(row["label"]) for row in csv.DictReader(file)}
    assert rows == {clip: clip % 10 for clip in range(12)}


@pytest.mark.slow
def test_a_process_that_fails_does_not_leave_the_other_waiting(tmp_path):
    run = make_workdir(tmp_path / "run", broken=True)
    pod = start_pod("sample", 2, f"--workdir={run}", "--num_samples=2", "--length=160")
    outputs = [finish(process) for process in pod]
    assert [code for code, _, _ in outputs] == [1, 1]
    assert all("error: the logits of clip" in err for _, _, err in outputs)


@pytest.mark.slow
def test_processes_without_a_common_folder_all_stop(workdir, tmp_path):
    # Each takes the relative path in a folder of its own, as on two hosts.
    homes = [tmp_path / name for name in ("one", "other")]
    for home in homes:
        home.mkdir()
    flags = [f"--workdir={workdir}", "--num_samples=2", "--length=160", "--out=clips"]
    pod = start_pod("sample", 2, *flags, folders=homes)
    outputs = [finish(process) for process in pod]
    assert [code for code, _, _ in outputs] == [1, 1]
    assert all("clips is not the same folder on all hosts" in err for _, _, err in outputs)


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(drawn, workdir, tmp_path):
    flags = ["--num_samples=5", "--batch_size=2", "--length=100ms", "--seed=3"]
    pod = start_pod("sample", 2, f"--workdir={workdir}", f"--out={tmp_path}", *flags)
    outputs = [finish(process) for process in pod]
    assert [code for code, _, _ in outputs] == [0, 0], [err for _, _, err in outputs]
    expected, found = clips_in(drawn[0]), clips_in(tmp_path)
    assert found.keys() == expected.keys()
    for name, (_, pcm) in found.items():
        np.testing.assert_array_equal(pcm, expected[name][1])
    tables = [(folder / "log_likelihoods.csv").read_text() for folder in (drawn[0], tmp_path)]
    assert [line.split(",")[0] for line in tables[0].splitlines()] == [
        line.split(",")[0] for line in tables[1].splitlines()
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"--length is missing; the model's clips last --length=1s"),
        (["--length=soon"], r"--length=soon is no duration; write seconds as 1.5s"),
        (["--length=1s", "--label=3"], "the model has no classes"),
        (["--length=1s", "--guidance=2"], "--guidance=2 needs a --label"),
        (["--length=1s", "--prompt_length=1s"], "--prompt_length=1s needs a --prompt"),
        (["--length=0.5s", "--prompt={speech}"], "16000 samples leaves nothing to draw of .* 8000"),
        (
            ["--length=3s", "--prompt={speech}", "--prompt_length=2s"],
            r"--prompt_length=2s is 32000 samples; .*speech.wav has 16000",
        ),
        (["--length=1s", "--prompt={speech}.mp3"], r"speech.wav.mp3"),
        (["--length=1s", "--prompt={eight}"], r"has 8000 Hz, the model 16000 Hz; .*-ar 16000"),
        (["--length=1s", "--prompt={empty}"], r"empty.wav is empty"),
        (["--length=1s", "--temperature=-1"], "temperature -1.0 must be finite and not negative"),
        (
            ["--length=1s", "--out=gs://bucket/clips"],
            "--out=gs:/bucket/clips is not a path",
        ),
        (["--length=1s", "--batch_size=0"], "--batch_size=0 does not split over 1 devices"),
    ],
)
def test_mistakes_end_in_one_line(workdir, speech, tmp_path, flags, message):
    eight, empty = tmp_path / "eight.wav", tmp_path / "empty.wav"
    write_wav(eight, np.ones(8_000, np.int16), 8_000)
    write_wav(empty, np.zeros(0, np.int16), 16_000)
    flags = [flag.format(speech=speech, eight=eight, empty=empty) for flag in flags]
    code, _, err = finish(sample(workdir, f"--out={tmp_path / 'out'}", *flags))
    assert code == 1 and re.search(message, err), err
    assert err.startswith("error: ") and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_workdir_without_a_checkpoint(workdir, tmp_path):
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    code, _, err = finish(sample(tmp_path, "--length=1s"))
    assert code == 1 and re.match(r"error: .*checkpoints is missing: the run has no checkp", err)


@pytest.mark.slow
def test_logits_that_are_not_finite_stop_with_their_place(tmp_path):
    run = make_workdir(tmp_path / "run", broken=True)
    code, _, err = finish(sample(run, "--length=160", "--num_samples=1"))
    assert code == 1
    assert "error: the logits of clip 0 are not finite at sample 0" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "samples"),
    [("1s", 16_000), ("0.5s", 8_000), (".25s", 4_000), ("500ms", 8_000), ("7", 7)],
)
def test_durations(text, samples):
    assert parse_duration("length", text, 16_000) == samples


@pytest.mark.parametrize("text", ["", "s", "1m", "-1s", "0", "0s", "1.5", "1,5s", "0.00001s"])
def test_no_durations(text):
    with pytest.raises(ValueError, match=re.escape(f"--length={text} is no duration")):
        parse_duration("length", text, 16_000)
