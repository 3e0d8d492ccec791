import pytest

from benchmarks import speech
from poolformer_jax.data.builders.features import DIGIT_WORDS


@pytest.mark.nightly
def test_what_is_said_is_heard(tables_of):
    few = ["--num_samples=20", "--temperatures=1", "--guidances=1.5", "--prompts=150"]
    (rows,) = tables_of(speech, "--pretrained=digits", *few).values()
    real, *drawn = rows
    assert real["clips"] == "real test clips" and real["recognised"] == 1
    titles = ["temperature 1", "guidance 1.5", "after 150 ms of real words"]
    assert [row["clips"] for row in drawn] == titles
    for row in drawn[:2]:  # Their labels are in turn.
        assert row["recognised"] == pytest.approx(sum(row[word] for word in DIGIT_WORDS) / 10)
    # 95 % of its words are recognised, and 99 % of those that were begun for it.
    assert drawn[0]["recognised"] > 0.8 and drawn[-1]["recognised"] > 0.9
