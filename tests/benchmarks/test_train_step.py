import pytest

from benchmarks import train_step


@pytest.mark.nightly
def test_steps_are_measured_beside_those_without_pooling(tables_of, tiny):
    models = f"--models={tiny},{tiny}-no_pooling"
    steps, pooling, growth = tables_of(train_step, models, "--lengths=15", "--rounds=1").values()
    assert [(row["model"].removeprefix(tiny), row["length"]) for row in steps] == [
        ("", 16),  # A whole number of windows.
        ("-no_pooling", 16),
    ]
    assert all(row["s/step"] > 0 and row["temporaries, MB"] > 0 for row in steps)
    (row,) = pooling
    assert row["time, x"] == pytest.approx(steps[1]["s/step"] / steps[0]["s/step"])
    assert not growth


def test_growth_is_fitted_for_every_model_with_several_lengths():
    seconds = {("a", 10): 1.0, ("a", 100): 10.0, ("b", 10): 1.0, ("c", 10): 2.0, ("c", 20): 8.0}
    memory = {cell: 3.0 for cell in seconds}
    rows = train_step._growth(seconds, memory)
    assert [tuple(row.values()) for row in rows] == [
        ("a", "10 to 100", pytest.approx(1), pytest.approx(0)),
        ("c", "10 to 20", pytest.approx(2), pytest.approx(0)),
    ]


@pytest.mark.tpu_backend
def test_bytes_and_consumers_are_told_for_a_tpu(tables_of, tiny, tpu_compiler):
    flags = ["--tpu=v5e:2x2", "--batch_size=1", "--top=3"]
    tables = tables_of(train_step, f"--models={tiny}", *flags)
    (row,) = tables["A training step on 4 x v5e, each chip"]
    assert row["clips a chip"] == 1
    assert row["HBM, GB"] > 0 and row["all-reduce, MB"] > 0
    (consumers,) = (rows for title, rows in tables.items() if title.startswith("Largest"))
    sizes = [consumer["HBM, MB"] for consumer in consumers]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 3
    assert sum(sizes) < row["HBM, GB"] * 1e3
