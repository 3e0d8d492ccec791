"""The builders of published data sets, on small archives in the published layouts."""

import itertools
import struct
import sys
import tempfile

import numpy as np
import pytest
import scipy.signal

from poolformer_jax.data.builders import prepare
from poolformer_jax.data.builders.archive import open_archive
from poolformer_jax.data.builders.beethoven import Beethoven
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.data.builders.fsdd import Fsdd
from poolformer_jax.data.builders.youtubemix import Youtubemix
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.source import SPLITS, open_splits
from tests.data.builders import published


def build(tmp_path, name, files, *, partial=True, archive="archive.zip", **arguments):
    """Prepares a data set and returns its examples by split and name."""
    path = published.write_zip(tmp_path / archive, files, **arguments)
    config = DataConfig(name=name, data_dir=str(tmp_path / "data"), partial=partial)
    prepare.prepare(config, manual_dir=path)
    return read(config)


def read(config):
    splits = {}
    for split in SPLITS:
        examples = list(open_splits(config)[split])
        splits[split] = {example["name"].decode(): example for example in examples}
        assert len(splits[split]) == len(examples)
    return splits


def assert_nothing_is_left(tmp_path, name):
    assert not list((tmp_path / "data").rglob("*array_record*"))
    assert not list((tmp_path / "data").rglob("incomplete.*"))
    for partial in (True, False):
        config = DataConfig(name=name, data_dir=str(tmp_path / "data"), partial=partial)
        with pytest.raises(FileNotFoundError, match=r"python -m launch.prepare_data"):
            open_splits(config)["train"]


def test_sc09_splits_by_its_lists(tmp_path):
    splits = build(tmp_path, "sc09", published.sc09_files(), root="sc09/")
    assert [len(splits[split]) for split in SPLITS] == [40, 20, 20]
    takes = {split: {name[-5] for name in splits[split]} for split in SPLITS}
    assert takes == {"train": {"2", "3"}, "validation": {"0"}, "test": {"1"}}
    for name, example in itertools.chain(*(split.items() for split in splits.values())):
        np.testing.assert_array_equal(example["audio"], published.pcm_of(name))
        word, file = name.split("/")
        assert DIGIT_WORDS[example["label"]] == word
        assert example["speaker"].decode() == file[:8]


def test_raw_speech_commands_is_the_same_sc09(tmp_path):
    (tmp_path / "raw").mkdir()
    archive = tmp_path / "raw" / "speech_commands_v0.02.tar.gz"
    published.write_tar(archive, published.speech_commands_files(), root="./")
    config = DataConfig(name="sc09", data_dir=str(tmp_path / "raw" / "data"), partial=True)
    prepare.prepare(config, manual_dir=archive.parent)
    one, other = build(tmp_path, "sc09", published.sc09_files()), read(config)
    for split in SPLITS:
        assert one[split].keys() == other[split].keys()
        for name, example in one[split].items():
            np.testing.assert_array_equal(example["audio"], other[split][name]["audio"])


def test_lists_may_have_the_line_ends_of_windows(tmp_path):
    files = published.sc09_files()
    for file in ("validation_list.txt", "testing_list.txt"):
        files[file] = b"\r\n" + files[file].replace(b"\n", b" \r\n")
    assert [len(split) for split in build(tmp_path, "sc09", files).values()] == [40, 20, 20]


@pytest.mark.parametrize(
    ("change", "line", "shown"),
    [
        (lambda text: b"\xef\xbb\xbf" + text, 1, r"'\\\\xef"),
        (lambda text: text.replace(b"/", b"\\"), 1, r"'zero\\\\0a2b400e"),
        (lambda text: text + b"./one/0a2b400e_nohash_2.wav\n", 21, "'./one/0a2b"),
        (lambda text: text.decode().encode("utf-16"), 1, r"'\\\\xff\\\\xfe"),
        (lambda text: text + b"one/0a2b400e_nohash_2\n", 21, "'one/0a2b400e_nohash_2'"),
    ],
)
def test_a_line_that_is_not_understood_leaks_no_clip_into_training(tmp_path, change, line, shown):
    files = published.sc09_files()
    files["testing_list.txt"] = change(files["testing_list.txt"])
    with pytest.raises(ValueError, match=rf"line {line} of testing_list.txt is {shown}.*expected"):
        build(tmp_path, "sc09", files)


def test_chunks_beside_the_samples_are_skipped(tmp_path):
    name = "nine/0a2b400e_nohash_3.wav"
    content = published.wav(published.pcm_of(name))
    chunk = (
        b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"
    )
    riff = b"RIFF" + struct.pack("<I", len(content) - 8 + 2 * len(chunk))
    content = riff + content[8:36] + chunk + content[36:] + chunk
    splits = build(tmp_path, "sc09", published.sc09_files() | {name: content})
    np.testing.assert_array_equal(splits["train"][name]["audio"], published.pcm_of(name))


def test_extracted_folder_is_the_same_as_the_archive(tmp_path):
    published.write_folder(tmp_path / "folder", published.sc09_files(), "sc09/")
    config = DataConfig(name="sc09", data_dir=str(tmp_path / "data"), partial=True)
    prepare.prepare(config, manual_dir=tmp_path / "folder")
    assert [len(split) for split in read(config).values()] == [40, 20, 20]


@pytest.mark.parametrize(
    ("builder", "pattern", "counts", "first_of"),
    [
        (Beethoven, "{}.wav", (3_808, 260, 260), (0, 3_808, 4_068)),
        (Youtubemix, "out{:03d}.wav", (212, 14, 15), (0, 212, 226)),
    ],
)
def test_music_splits_by_number(tmp_path, builder, pattern, counts, first_of):
    names = [pattern.format(number) for number in range(sum(counts))]
    path = published.write_zip(tmp_path / "archive.zip", dict.fromkeys(names, b""))
    archive = open_archive(path, file_names=(), clip_pattern=builder.CLIP_PATTERN)
    plan = object.__new__(builder).plan(archive)
    for split, count, first in zip(SPLITS, counts, first_of, strict=True):
        assert [clip.name for clip in plan[split]] == names[first : first + count]


@pytest.mark.parametrize(
    ("name", "files", "partial", "counts"),
    [
        ("beethoven", published.wavs(["0.wav", "3808.wav", "4327.wav"]), True, [1, 1, 1]),
        ("youtubemix", published.youtubemix_files(), False, [212, 14, 15]),
    ],
)
def test_music_is_built(tmp_path, name, files, partial, counts):
    splits = build(tmp_path, name, files, partial=partial)
    assert [len(splits[split]) for split in SPLITS] == counts
    for clip, example in itertools.chain(*(split.items() for split in splits.values())):
        np.testing.assert_array_equal(example["audio"], published.pcm_of(clip))


def test_fsdd_splits_by_take(tmp_path):
    splits = build(tmp_path, "fsdd", published.fsdd_files(), root="free-spoken-digit-dataset/")
    takes = {split: {int(name[:-4].split("_")[2]) for name in splits[split]} for split in SPLITS}
    assert takes == {
        "train": set(range(10, 50)),
        "validation": set(range(5, 10)),
        "test": set(range(5)),
    }
    assert [len(splits[split]) for split in SPLITS] == [400, 50, 50]
    example = splits["test"]["7_theo_3.wav"]
    assert DIGIT_WORDS[example["label"]] == "seven" and example["speaker"] == b"theo"
    assert len(example["audio"]) == 200


def test_fsdd_is_upsampled_without_an_image():
    # 1 kHz at 8 kHz: upsampled, it is 1 kHz still, as loud, and its image at 7 kHz is 60 dB lower.
    builder = object.__new__(Fsdd)
    pcm = np.rint(20_000 * np.sin(2 * np.pi * 1_000 / 8_000 * np.arange(8_000))).astype(np.int16)
    audio = builder.resample(pcm)
    assert audio.dtype == np.int16 and len(audio) == 16_000
    exact = scipy.signal.resample_poly(pcm.astype(np.float64), 2, 1)
    assert np.abs(audio - exact).max() <= 0.5  # Rounded, not cut off.
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(16_000)))
    assert spectrum.argmax() == 1_000
    assert spectrum[1_000] == pytest.approx(20_000 * 16_000 / 4, rel=0.01)
    assert spectrum[6_500:7_500].max() < 1e-3 * spectrum[1_000]
    # A square wave overshoots between its samples: it saturates instead of wrapping around.
    square = np.tile(np.repeat(np.array([-(2**15), 2**15 - 1], np.int16), 8), 100)
    overshoot = builder.resample(square).astype(int)
    assert overshoot.max() == 2**15 - 1 and overshoot.min() == -(2**15)
    assert np.all(np.abs(overshoot[1::2] - overshoot[::2]) < 2**16 - 1)


def without(files, name):
    return {key: content for key, content in files.items() if key != name}


VICTIM = "seven/3bb68054_nohash_2.wav"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (published.wav(published.pcm_of("x"), rate=44_100), "is sampled at 44100 Hz, expected 160"),
        (published.wav(published.pcm_of("x"), channels=2), "has 2 channels"),
        (published.wav(published.pcm_of("x").astype(np.uint8), width=1), "has 8-bit samples"),
        (published.wav(published.pcm_of("x"))[:-20], "is cut off: 190 of 200 samples"),
        (published.wav(published.pcm_of("x")[:0]), "is empty"),
        (published.wav(published.pcm_of("x", 100_000)), "has 200,044 bytes, but no such file of"),
        (b"", r"is not a PCM WAV file \(cut off header\)"),
        (published.wav(published.pcm_of("x"))[:30], r"is not a PCM WAV file \(cut off header\)"),
        (b"ID3 an MP3, renamed", "is not a PCM WAV file"),
    ],
)
def test_a_faulty_clip_is_named_and_nothing_is_left(tmp_path, content, fault):
    files = published.sc09_files() | {VICTIM: content}
    with pytest.raises(ValueError, match=rf"^{VICTIM} in .*archive.zip {fault}.*get the archive"):
        build(tmp_path, "sc09", files)
    assert_nothing_is_left(tmp_path, "sc09")


@pytest.mark.parametrize(
    ("name", "files", "fault"),
    [
        ("sc09", published.sc09_files(), "has 40 clips of the train split, expected 31,158"),
        (
            "sc09",
            without(published.sc09_files(), "two/0a2b400e_nohash_1.wav"),
            "lacks 1 clips named in testing_list.txt, such as two/0a2b400e_nohash_1.wav",
        ),
        (
            "beethoven",
            {f"{number}.wav": b"" for number in range(4_328) if number != 17},
            "lacks 1 of 4,328 clips, such as 17.wav",
        ),
        (
            "youtubemix",
            published.youtubemix_files(count=230),
            "lacks 11 of 241 clips, such as out230.wav",
        ),
        ("fsdd", published.fsdd_files(), "has 400 clips of the train split, expected 2,400"),
    ],
)
def test_missing_clips_are_counted_unless_a_part_will_do(tmp_path, caplog, name, files, fault):
    with pytest.raises(ValueError, match=rf"archive.zip {fault}; get the pub.*--allow_partial"):
        build(tmp_path, name, files, partial=False)
    assert_nothing_is_left(tmp_path, name)
    if name != "beethoven":  # Its clips here are empty.
        splits = build(tmp_path, name, files, partial=True)
        assert sum(map(len, splits.values())) == sum(key.endswith(".wav") for key in files)
        assert any(fault in record.getMessage() for record in caplog.records)


def test_a_part_is_no_whole(tmp_path):
    build(tmp_path, "sc09", published.sc09_files(), partial=True)
    config = DataConfig(name="sc09", data_dir=str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=r"a subset is there: .* config.data.partial=True"):
        open_splits(config)["train"]


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "sc09",
            without(published.sc09_files(), "testing_list.txt"),
            "lacks testing_list.txt, which says",
        ),
        (
            "sc09",
            published.sc09_files()
            | {"testing_list.txt": published.sc09_files()["validation_list.txt"]},
            "eight/0a2b400e_nohash_0.wav is in validation_list.txt and in testing_list.txt",
        ),
        (
            "sc09",
            published.sc09_files() | {"validation_list.txt": b"\n"},
            "has no clip of the validation split",
        ),
        (
            "sc09",
            published.wavs(["0.wav", "1.wav", "2.wav"]),
            "is a different archive: none of its 3 files",
        ),
        ("beethoven", published.youtubemix_files(count=3), "is a different archive"),
        (
            "youtubemix",
            published.youtubemix_files() | published.wavs(["out241.wav"]),
            "holds out241.wav, which is not one of the 241 clips",
        ),
        (
            "fsdd",
            published.fsdd_files() | published.wavs(["recordings/0_theo_50.wav"], rate=8_000),
            "holds 0_theo_50.wav: takes are numbered 0 to 49",
        ),
        (
            "fsdd",
            {f"0_theo_{'9' * 5_000}.wav": b""},
            r"holds '0_theo_9+'...: takes are numbered 0 to 49",
        ),
    ],
)
def test_wrong_archives_are_refused_even_in_part(tmp_path, name, files, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, name, files)
    assert_nothing_is_left(tmp_path, name)


def test_preparing_again_changes_nothing(tmp_path, caplog):
    build(tmp_path, "sc09", published.sc09_files())
    (manifest,) = (tmp_path / "data").rglob("manifest.json")
    before = manifest.stat().st_mtime_ns
    config = DataConfig(name="sc09", data_dir=str(tmp_path / "data"), partial=True)
    caplog.set_level("INFO")
    prepare.prepare(config)  # Not even the archive is needed.
    assert "is complete already" in caplog.text
    prepare.prepare(config, manual_dir="elsewhere")
    assert "was not compared with elsewhere; to build it anew, delete it first" in caplog.text
    assert manifest.stat().st_mtime_ns == before


def test_damaged_data_set_is_not_opened_but_prepared_again(tmp_path):
    build(tmp_path, "sc09", published.sc09_files())
    (shard,) = (tmp_path / "data").rglob("sc09-train.array_record*")
    shard.write_bytes(shard.read_bytes()[:-1])
    config = DataConfig(name="sc09", data_dir=str(tmp_path / "data"), partial=True)
    with pytest.raises(FileNotFoundError, match=rf"not ready \({shard} has .*launch.prepare_data"):
        open_splits(config)["test"]
    # What is left of it stays until something better is there.
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"broken.zip is cut off or damaged"):
        prepare.prepare(config, manual_dir=tmp_path / "broken.zip")
    assert shard.exists()
    prepare.prepare(config, manual_dir=tmp_path / "archive.zip")
    assert len(open_splits(config)["train"]) == 40
    # The data set and its lock, and nothing of the builder's own.
    assert {path.name for path in (tmp_path / "data").rglob("*") if path.is_dir()} == {
        "sc09",
        "partial",
        "1.0.0",
    }


def test_killed_preparation_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    archive = published.write_zip(tmp_path / "sc09.zip", published.sc09_files())
    config = DataConfig(name="sc09", data_dir=str(tmp_path / "data"), partial=True)
    with monkeypatch.context() as context:  # As if it were killed: nothing is cleaned up.
        context.setattr(tempfile.TemporaryDirectory, "__exit__", lambda *_: None)
        context.setattr(tempfile.TemporaryDirectory, "_cleanup", lambda *_, **__: None)
        context.setattr(prepare, "write_manifest", lambda _: sys.exit())
        with pytest.raises(SystemExit):
            prepare.prepare(config, manual_dir=archive)
    assert list((tmp_path / "data").rglob("incomplete.*/**/sc09-train.array_record*"))
    with pytest.raises(FileNotFoundError, match=r"launch.prepare_data --dataset=sc09"):
        open_splits(config)
    prepare.prepare(config, manual_dir=archive)
    assert len(open_splits(config)["train"]) == 40
    assert not list((tmp_path / "data").rglob("incomplete.*"))


@pytest.mark.parametrize(
    ("name", "download", "message"),
    [
        ("sc09", False, r"name the folder that holds sc09.zip or .* as --manual_dir .*--download"),
        ("fsdd", False, r"free-spoken-digit-dataset.*as --manual_dir \(github.com/Jak[^,]*$"),
        ("fsdd", True, "is not on the Hugging Face Hub in its published form; get"),
    ],
)
def test_an_archive_must_come_from_somewhere(tmp_path, name, download, message):
    config = DataConfig(name=name, data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=message):
        prepare.prepare(config, download=download)
    for nowhere in (tmp_path / "nowhere", ""):
        with pytest.raises(FileNotFoundError, match=rf"manual_dir '{nowhere}' does not exist"):
            prepare.prepare(config, manual_dir=nowhere)
    with pytest.raises(ValueError, match="both given; drop one of them"):
        prepare.prepare(config, manual_dir=tmp_path, download=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_sc09_of_the_published_size_is_whole(tmp_path):
    """All 31,158 training clips, and lists of about the real size, of a few samples each."""
    clips = [
        f"{word}/{speaker:08x}_nohash_{take}.wav"
        for word in DIGIT_WORDS
        for speaker in range(1_300)
        for take in range(3)
    ]
    held_out = clips[31_158:38_908]
    content = published.wav(np.arange(4, dtype=np.int16))
    files = dict.fromkeys(clips[:38_908], content)
    files["validation_list.txt"] = "\n".join(held_out[:3_643]).encode()
    files["testing_list.txt"] = "\n".join(held_out[3_643:]).encode()
    splits = build(tmp_path, "sc09", files, partial=False)
    assert [len(splits[split]) for split in SPLITS] == [31_158, 3_643, 4_107]
