import dataclasses
import itertools

import numpy as np
import pytest

from poolformer_jax.audio.codec import encode
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.pipeline import eval_batches, train_batches
from poolformer_jax.data.source import evaluated_clips, open_splits

CLIPS = 13
CONFIG = DataConfig(seq_len=20)


def clip(index):
    """A clip whose length tells it from the others: 5 + index samples."""
    pcm = np.random.default_rng(index).integers(-1000, 1000, 5 + index)
    return {"audio": pcm.astype(np.int16)}


SOURCE = [clip(index) for index in range(CLIPS)]
WIDE = DataConfig(seq_len=30)


def take(count, *, config=WIDE, **arguments):
    batches = train_batches(SOURCE, config, **{"start_example": 0, **arguments})
    return list(itertools.islice(batches, count))


def indices(batches):
    return np.concatenate([batch["lengths"] for batch in batches]) - 5


def test_clip_is_encoded_cut_and_padded_with_silence():
    (batch,) = eval_batches(SOURCE, CONFIG, batch_size=CLIPS)
    assert batch["tokens"].dtype == batch["lengths"].dtype == np.int32
    for index, (tokens, length) in enumerate(zip(batch["tokens"], batch["lengths"], strict=True)):
        assert length == min(5 + index, 20)
        codes = encode(SOURCE[index]["audio"], codec="mu_law", normalize=True)
        np.testing.assert_array_equal(tokens[:length], codes[:20])
        assert np.all(tokens[length:] == 128)


def test_padding_does_not_depend_on_the_clip():
    # Minimum and maximum far from symmetric: padding before scaling would move the zeros.
    source = [{"audio": np.array([100, 900, 500, 900], np.int16)}]
    for codec in ("mu_law", "linear"):
        config = DataConfig(seq_len=30, codec=codec)
        (batch,) = eval_batches(source, config, batch_size=1)
        assert np.all(batch["tokens"][0, 4:] == 128)
        np.testing.assert_array_equal(batch["tokens"][0, [0, 2]], [0, batch["tokens"][0, 2]])
        assert batch["tokens"][0, 1] == 255


def test_every_epoch_covers_all_clips_in_another_order():
    order = indices(take(3 * CLIPS, batch_size=1)).reshape(3, CLIPS)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(CLIPS), (3, 1)))
    assert len({tuple(epoch) for epoch in order}) == 3


def test_order_depends_on_the_seed():
    one, other = (
        indices(take(CLIPS, batch_size=1, config=DataConfig(seq_len=30, seed=seed)))
        for seed in (0, 1)
    )
    assert tuple(one) != tuple(other)


def test_resumed_batches_equal_uninterrupted_ones():
    whole = take(15, batch_size=4)
    for steps in (1, 3, 4, 11):  # 11 steps of 4 are more than three epochs of 13.
        np.testing.assert_equal(
            take(15 - steps, batch_size=4, start_example=4 * steps), whole[steps:]
        )


def test_pcm16_is_the_samples_padded_with_its_own_silence():
    config = DataConfig(seq_len=30, codec="pcm16", normalize=False)
    (batch,) = eval_batches(SOURCE, config, batch_size=CLIPS)
    for row, example in zip(batch["tokens"], SOURCE, strict=True):
        length = len(example["audio"])
        np.testing.assert_array_equal(row[:length] - 2**15, example["audio"])
        assert np.all(row[length:] == 2**15)


RAMP = np.arange(1_000, dtype=np.int16)
CROPS = DataConfig(seq_len=1_000, train_len=10, crop="random", codec="pcm16", normalize=False)


def crop_starts(count, *, audio=RAMP, config=CROPS, start_example=0):
    """Where the next `count` crops of a clip begin whose samples are their own positions."""
    source = [{"audio": audio}] * count
    batches = train_batches(source, config, batch_size=count, start_example=start_example)
    rows = next(batches)["tokens"] - 2**15
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(10))
    return rows[:, 0].tolist()


def test_random_crops_cover_the_clip_evenly_and_follow_seed_and_position():
    starts = crop_starts(2_000)
    assert crop_starts(5, start_example=1_995) == starts[1_995:]
    other_seed = dataclasses.replace(CROPS, seed=1)
    assert crop_starts(20, config=other_seed) != starts[:20]
    # Uniform over 0 to 990: ten cells of 200 +- 5 standard deviations of 13.4.
    counts, _ = np.histogram(starts, bins=10, range=(0, 991))
    assert np.all(np.abs(counts - 200) < 67)
    # Both ends occur: the 991 starts are drawn 2,000 times, and each is missed with p = 0.13.
    assert min(starts) <= 10 and max(starts) >= 980


def test_crop_of_exactly_the_length_is_the_whole_clip():
    assert crop_starts(3, audio=RAMP[:10]) == [0, 0, 0]
    assert {*crop_starts(20, audio=RAMP[:11])} == {0, 1}


@pytest.mark.parametrize("config", [WIDE, CROPS])
@pytest.mark.parametrize("start_example", [0, 12])
def test_two_processes_share_the_batches_of_one(start_example, config):
    arguments = {"start_example": start_example, "config": config}
    whole = take(9, batch_size=4, **arguments)
    parts = [take(9, batch_size=2, process_index=p, process_count=2, **arguments) for p in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        joined = {name: np.concatenate([half[name] for half in halves]) for name in batch}
        np.testing.assert_equal(joined, batch)


def test_crop_is_normalised_with_its_whole_clip():
    config = dataclasses.replace(CROPS, codec="linear", normalize=True)
    whole = encode(RAMP, codec="linear", normalize=True)
    batch = next(train_batches([{"audio": RAMP}], config, batch_size=1, start_example=0))
    (start,) = crop_starts(1)
    np.testing.assert_array_equal(batch["tokens"][0], whole[start : start + 10])


def test_evaluation_is_never_cropped():
    (batch,) = eval_batches([{"audio": RAMP}], CROPS, batch_size=1)
    np.testing.assert_array_equal(batch["tokens"][0] - 2**15, RAMP)


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 13, 20])
def test_eval_covers_the_split_exactly_once(batch_size, process_count):
    parts = [
        list(
            eval_batches(
                SOURCE, WIDE, batch_size=batch_size, process_index=p, process_count=process_count
            )
        )
        for p in range(process_count)
    ]
    assert len({len(part) for part in parts}) == 1
    for batch in itertools.chain(*parts):
        assert batch["tokens"].shape == (batch_size, 30)
    lengths = [batch["lengths"] for part in parts for batch in part]
    lengths = np.concatenate(lengths)
    assert sorted(lengths[lengths > 0] - 5) == list(range(CLIPS))
    indices = np.concatenate([batch["indices"] for part in parts for batch in part])
    np.testing.assert_array_equal(indices[lengths > 0], lengths[lengths > 0] - 5)
    assert len(set(indices)) == len(indices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 14}, "14 x 1 processes is larger than the split of 13 clips"),
        ({"batch_size": 7, "process_count": 2}, "batch size of at most 6"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"batch_size": 1, "process_index": 2, "process_count": 2}, "process_index 2 is not in"),
        ({"batch_size": 1, "start_example": -1}, "start_example must be at least 0, got -1"),
    ],
)
def test_bad_sizes_are_refused_before_the_first_batch(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_batches(SOURCE, WIDE, **{"start_example": 0, **arguments})


def test_empty_split_is_refused():
    with pytest.raises(ValueError, match="empty"):
        train_batches([], WIDE, batch_size=1, start_example=0)
    with pytest.raises(ValueError, match="empty"):
        eval_batches([], WIDE, batch_size=1)


def test_an_evaluation_may_read_a_part_of_a_split():
    clips = [{"audio": np.full(n + 1, 3, np.int16), "name": str(n)} for n in range(10)]

    def names(eval_clips):
        part = evaluated_clips(clips, dataclasses.replace(WIDE, eval_clips=eval_clips))
        rows = np.concatenate([b["indices"] for b in eval_batches(part, WIDE, batch_size=4)])
        return [part[i]["name"] for i in rows if i < len(part)]

    assert names(4) == ["0", "2", "5", "7"]
    assert names(1) == ["0"]
    assert names(None) == names(10) == names(99) == [str(n) for n in range(10)]


def test_digits_flow_through_the_pipeline(tiny_config):
    source = open_splits(tiny_config)["train"]
    batch = next(train_batches(source, tiny_config, batch_size=8, start_example=0))
    assert batch["tokens"].shape == (8, 16_000)
    assert np.all((batch["tokens"] >= 0) & (batch["tokens"] < 256))
    total = sum(b["lengths"].sum() for b in eval_batches(source, tiny_config, batch_size=32))
    assert total == sum(len(example["audio"]) for example in source)
