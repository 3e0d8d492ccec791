"""The report shows what the files of a run say, and holds everything it shows."""

import base64
import json
import math
import pathlib
import re

import numpy as np
import pytest

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.experiment.configuration import ClassifierExperiment, make_experiment
from poolformer_jax.experiment.workdir import write_experiment
from poolformer_jax.pages import plots as report_plots
from poolformer_jax.pages import report, run_files

SAMPLE_RATE = 16_000
MODEL = {
    "pool_factors": [2, 4, 4, 5],
    "layers": [1, 1, 2, 2, 2],
    "mixer": {"recurrent_width": 4096, "num_gate_blocks": 16},
}


def write_lines(path: pathlib.Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def chirp(seconds: float, low: float, high: float) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * (low * time + (high - low) * time**2 / (2 * seconds))
    return np.round(20_000 * np.hanning(len(time)) * np.sin(phase)).astype(np.int16)


def make_workdir(path: pathlib.Path, *, num_clips: int, num_steps: int = 40) -> pathlib.Path:
    """Writes the files of a run whose loss falls from 7.8 to about 3."""
    path.mkdir()
    write_experiment(path, make_experiment({"model": MODEL, "data": {"name": "digits"}}))
    environment = {
        "python": "3.11.7",
        "jax": "0.10.2",
        "platform": "cpu",
        "git_commit": "0123abc",
        "num_parameters": 1_234_567,
    }
    (path / "environment.json").write_text(json.dumps(environment))
    noise = np.random.default_rng(0).normal(0, 0.12, num_steps + 1)
    records: list[dict] = []
    for step in range(num_steps + 1):
        bits = 3.0 + 4.8 * math.exp(-5 * step / num_steps)
        if step % (num_steps // 4) == 0:
            size = {"num_clips": 1000, "num_samples": 8_765_432}
            records.append({"kind": "validation", "step": step, "bits_per_sample": bits, **size})
        if step == 0:
            continue
        record = {
            "kind": "train",
            "step": step,
            "bits_per_sample": bits + noise[step],
            "grad_norm": 0.5 + 10 / step,
            "learning_rate": 2e-3,
            "skipped_steps": 3,
        }
        if step % 10 == 0:
            record |= {"clips_per_second": 12.5, "samples_per_second": 200_000.0}
        records.append(record)
    write_lines(path / "metrics.jsonl", records)
    likelihood = {
        "split": "test",
        "bits_per_sample": 3.14159,
        "num_clips": 1040,
        "num_samples": 7_654_321,
        "step": num_steps,
    }
    (path / "likelihood_test.json").write_text(json.dumps(likelihood))
    for index in range(num_clips):
        pcm = chirp(1.0, 200, 1500 * (index + 1))
        write_wav(path / "samples" / f"sample_{index}.wav", pcm, SAMPLE_RATE)
    for index in range(2):
        pcm = chirp(0.6, 3000, 300)
        write_wav(path / "samples" / f"real_{index}.wav", pcm, SAMPLE_RATE)
    return path


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    """A run that a test may change."""
    return make_workdir(tmp_path / "run", num_clips=1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> pathlib.Path:
    """A run whose page is written."""
    workdir = make_workdir(tmp_path_factory.mktemp("runs") / "run", num_clips=4)
    report.write_report(workdir)
    return workdir


@pytest.fixture(scope="module")
def page(shown: pathlib.Path) -> str:
    return (shown / "report.html").read_text(encoding="utf-8")


def page_of(workdir: pathlib.Path) -> str:
    return report.write_report(workdir).read_text(encoding="utf-8")


def test_page_shows_the_numbers_of_the_run(page: str):
    last = 3.0 + 4.8 * math.exp(-5)
    for text in (
        "<title>Poolformer on digits</title>",
        "1,234,567",  # parameters
        "<th scope='row'>Mixer kind</th><td>rg_lru</td>",
        "<th scope='row'>Mixer recurrent width</th><td>4096</td>",
        "<th scope='row'>Mixer num gate blocks</th><td>16</td>",
        "<th scope='row'>Mixer complex</th><td>yes</td>",
        "<th scope='row'>Layers</th><td>1, 1, 2, 2, 2</td>",
        "<th scope='row'>Total pooling factor</th><td>160</td>",
        "<th scope='row'>Pool groups</th><td>none</td>",
        "<th scope='row'>Learning rate</th><td>0.002</td>",
        "16,000 → 8,000 → 2,000 → 500 → 100",  # steps per second of the levels
        f"7.800 → {last:.3f}",  # validation, start and end
        "3.142",  # test bits
        "7,654,321",
        "8.000",  # log2(256), the uniform model
        "12.5 median",
        "200,000 median",
        "0123abc",
        "<th scope='row'>Skipped steps</th><td>3</td>",
    ):
        assert text in page, text


def test_players_hold_the_very_bytes_of_the_files(shown: pathlib.Path, page: str):
    sounds = re.findall(r"<audio[^>]*src='data:audio/wav;base64,([^']+)'", page)
    files = [*sorted((shown / "samples").glob("sample_*")), *(shown / "samples").glob("real_*")]
    assert len(sounds) == page.count("<audio") == 6
    assert {base64.b64decode(sound) for sound in sounds} == {file.read_bytes() for file in files}
    assert base64.b64decode(sounds[0]) == files[0].read_bytes()
    assert page.index("Generated") < page.index("sample_3") < page.index("Real clips")
    assert page.index("Real clips") < page.index("real_0")


def test_clips_say_which_label_they_were_drawn_with(workdir: pathlib.Path):
    (workdir / "samples" / "sample_0.wav").unlink()
    for folder, labels in {"samples": [7, 3], "pretrained": [5, ""]}.items():
        header = "clip,seed,label,num_samples,log_likelihood,bits_per_sample"
        # The table is by likelihood.
        rows = [f"{clip},0,{label},320,-700.0,3.2" for clip, label in enumerate(labels)][::-1]
        for clip in range(2):
            write_wav(workdir / folder / f"sample_{clip:05d}.wav", chirp(0.1, 9, 99), SAMPLE_RATE)
        (workdir / folder / "log_likelihoods.csv").write_text("\n".join([header, *rows]) + "\n")
    headers = re.findall(r"<header><b>(\w+)</b><span>([^<]+)</span>", page_of(workdir))
    assert headers == [
        ("sample_00000", "0.10 s · 16 kHz · label 5"),  # Of the pretrained model.
        ("sample_00001", "0.10 s · 16 kHz"),
        ("sample_00000", "0.10 s · 16 kHz · label 7"),
        ("sample_00001", "0.10 s · 16 kHz · label 3"),
        ("real_0", "0.60 s · 16 kHz"),
        ("real_1", "0.60 s · 16 kHz"),
    ]
    for damaged in (header + "\n0,0,7", "clip;seed\n0;0", "clip\nx"):
        (workdir / "samples" / "log_likelihoods.csv").write_text(damaged)
        with pytest.raises(ValueError, match=r"log_likelihoods\.csv is damaged"):
            report.write_report(workdir)


def test_page_refers_to_nothing_outside_itself(page: str):
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "http" not in text
    assert "//" not in text
    assert all(source.startswith("data:") for source in re.findall(r"src='([^']+)'", page))
    assert not re.search(r"<(script|link|iframe)|@import|url\(", text)


def test_pictures_are_png_without_metadata(page: str):
    pictures = re.findall(r"data:image/png;base64,([^']+)'", page)
    assert len(pictures) == 1 + 6  # The loss curve and one picture a clip.
    for picture in map(base64.b64decode, pictures):
        assert picture.startswith(b"\x89PNG")
        assert b"http" not in picture


def test_page_shows_how_much_context_helps(workdir: pathlib.Path):
    likelihood = json.loads((workdir / "likelihood_test.json").read_text())
    likelihood |= {
        "confidence_interval": {"low": 3.12345, "high": 3.15789, "confidence": 0.95},
        "training_length": 8_000,
        "curve": {
            "edges": [0, 1, 2, 100, 16_000],
            "bits_per_sample": [12.0, 7.0, 4.0, 3.1],
            "num_samples": [1040, 1040, 101_920, 7_550_321],
        },
    }
    (workdir / "likelihood_test.json").write_text(json.dumps(likelihood))
    page = page_of(workdir)
    assert "95% bootstrap interval" in page and "3.123 to 3.158" in page
    assert page.count("data:image/png") == 2 + 3
    assert "How much context helps" in page
    figure = report_plots.plot_context(likelihood, num_codes=256)
    (axes,) = figure.axes
    (stairs,) = axes.patches
    np.testing.assert_array_equal(stairs.get_data().edges, [1, 2, 3, 101, 16_001])
    np.testing.assert_array_equal(stairs.get_data().values, [12.0, 7.0, 4.0, 3.1])
    assert [text.get_text() for text in axes.texts] == ["mean, 3.142", "training length"]


def test_spectrogram_is_loudest_at_the_tone():
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    decibels, extent = report_plots.spectrogram_db(np.sin(2 * np.pi * 2000 * time), SAMPLE_RATE)
    rows = np.linspace(0, extent[3], len(decibels))
    # The windows hold 512 samples, so the rows are 31.25 Hz apart and 2 kHz is one of them.
    assert rows[decibels[:, decibels.shape[1] // 2].argmax()] == 2000
    assert decibels.max() == 0
    assert extent[0] == pytest.approx(0, abs=0.004) and extent[1] == pytest.approx(0.5, abs=0.004)


def test_running_mean_looks_back_and_skips_what_is_not_finite():
    values = np.array([np.nan, 4.0, 2.0, np.inf, 6.0])
    expected = [np.nan, 4.0, 3.0, 2.0, 6.0]
    np.testing.assert_array_equal(report_plots.running_mean(values, 2), expected)


def test_missing_optional_parts_name_their_commands(workdir: pathlib.Path):
    (workdir / "likelihood_test.json").unlink()
    for file in (workdir / "samples").glob("sample_*"):
        file.unlink()
    page = page_of(workdir)
    assert f"python -m launch.eval_likelihood --workdir={workdir} --split=test" in page
    assert f"python -m launch.sample --workdir={workdir} --num_samples=4" in page
    assert page.count("<audio") == 2  # The real clips stay.


@pytest.mark.parametrize("name", ["config.json", "environment.json", "metrics.jsonl"])
def test_missing_required_file_is_named_with_its_command(workdir: pathlib.Path, name: str):
    (workdir / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} .*python -m launch\.train .*--workdir="):
        report.write_report(workdir)
    assert not (workdir / "report.html").exists()


def test_page_of_somebody_else_is_kept_and_its_own_replaced(workdir: pathlib.Path):
    path = report.write_report(workdir)
    (workdir / "written_files.json").unlink()  # As a version without a list left it.
    report.write_report(workdir)
    (workdir / "written_files.json").unlink()
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"report.html is in the way and is kept"):
        report.write_report(workdir)
    assert path.read_text() == "mine"


def test_missing_workdir_is_named(tmp_path: pathlib.Path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; make it with"):
        report.write_report(tmp_path / "nowhere")


def test_classifier_is_named_with_the_file_of_its_result(workdir: pathlib.Path):
    write_experiment(workdir, ClassifierExperiment())
    with pytest.raises(ValueError, match=r"holds a classifier.*run/classifier_test\.json"):
        report.write_report(workdir)


def test_damaged_json_is_an_error_that_names_the_file(workdir: pathlib.Path):
    (workdir / "environment.json").write_text('{"jax": ')
    with pytest.raises(ValueError, match=r"environment\.json is not valid JSON"):
        report.write_report(workdir)


def test_steps_count_once_and_damaged_lines_are_left_out(workdir: pathlib.Path, caplog):
    with (workdir / "metrics.jsonl").open("a") as file:
        repeated = {"kind": "train", "step": 40, "bits_per_sample": 2.5, "skipped_steps": 7}
        file.write('{"kind": "train"}\n' + json.dumps(repeated) + '\n{"kind": "train", "st')
    run = run_files.load_run(workdir)
    assert [record["step"] for record in run.training] == list(range(1, 41))
    assert run.training[-1]["bits_per_sample"] == 2.5
    assert re.search(r"damaged lines \d+ of .*metrics\.jsonl are left out", caplog.text)


def test_losses_that_are_not_finite_do_not_break_the_page(workdir: pathlib.Path):
    with (workdir / "metrics.jsonl").open("a") as file:
        for step, bits in ((41, None), (42, math.nan), (43, math.inf)):
            file.write(json.dumps({"kind": "train", "step": step, "bits_per_sample": bits}) + "\n")
        record = {"kind": "validation", "step": 43, "bits_per_sample": None}
        file.write(json.dumps(record) + "\n")
    assert "7.800 → not finite" in page_of(workdir)


def test_run_without_any_step_and_with_an_empty_clip(workdir: pathlib.Path):
    (workdir / "metrics.jsonl").write_text("")
    write_wav(workdir / "samples" / "sample_9.wav", np.zeros(0, np.int16), SAMPLE_RATE)
    page = page_of(workdir)
    assert "No step has been logged yet." in page
    assert "0.00 s" in page


def test_names_are_escaped(workdir: pathlib.Path):
    environment = {"platform": "<script>alert(1)</script>"}
    (workdir / "environment.json").write_text(json.dumps(environment))
    assert "<script" not in page_of(workdir)
