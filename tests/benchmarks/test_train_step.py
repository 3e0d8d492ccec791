import pytest

from benchmarks import train_step


@pytest.mark.slow
def test_steps_are_measured_beside_those_without_pooling(tables_of, tiny):
    models = f"--models={tiny},{tiny}-no_pooling"
    tables = tables_of(train_step, models, "--lengths=15,32", "--rounds=1")
    steps, pooling, growth = tables.values()
    assert [(row["model"].removeprefix(tiny), row["length"]) for row in steps] == [
        ("", 16),  # A whole number of windows.
        ("", 32),
        ("-no_pooling", 16),
        ("-no_pooling", 32),
    ]
    assert all(row["s/step"] > 0 and row["temporaries, MB"] > 0 for row in steps)
    assert [row["length"] for row in pooling] == [16, 32]
    assert pooling[0]["time, x"] == pytest.approx(steps[2]["s/step"] / steps[0]["s/step"])
    assert [row["T"] for row in growth] == ["16 to 32"] * 2


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
