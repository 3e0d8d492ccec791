import pytest

from benchmarks import precision
from tests.launch.processes import TINY_MODEL


@pytest.mark.nightly
def test_both_types_are_trained_and_drawn(tables_of, tiny_config, tmp_path):
    (rows,) = tables_of(
        precision,
        "--config=configs/digits.py",
        "--steps=2",
        "--seeds=2",
        *TINY_MODEL,
        "--config.data.name=digits_tiny",
        f"--config.data.data_dir={tiny_config.data_dir}",
        "--config.train.eval_batch_size=8",
        "--config.train.batch_size=8",
    ).values()
    assert [row["activations"] for row in rows] == ["float32", "bfloat16"]
    for row in rows:
        assert row["mean"] == pytest.approx((row["seed 0"] + row["seed 1"]) / 2)
        assert 0 < row["mean"] < 9 and row["seed 0"] != row["seed 1"]
    assert rows[0]["seed 0"] != rows[1]["seed 0"]
    assert (tmp_path / "out" / "precision.svg").read_text().count("<path") > 4
