import json
import re

import jax
import pytest

from benchmarks import baselines, models
from poolformer_jax.experiment import named_config, named_configs


def test_all_baselines_are_compared():
    known = {name for name in named_configs() if name.startswith("baselines/")}
    compared = {models.config_of(model, "").partition(":")[0] for model in models.MODELS}
    assert compared == (known - {"baselines/sashimi_tied"}) | {"sc09"}
    assert named_config(models.config_of("mamba", "fsdd")).data.name == "fsdd"


@pytest.mark.nightly
def test_steps_and_draws_are_measured(tables_of):
    flags = ["--models=poolformer,mamba", "--length=320", "--batch_size=1", "--rounds=1"]
    steps, draws = tables_of(models, *flags, "--drawn=2").values()
    for rows, unit in ((steps, "s/step"), (draws, "s/sample")):
        assert [row["model"] for row in rows] == ["poolformer", "mamba"]
        first, second = (row[unit] for row in rows)
        assert rows[1]["poolformer = 1"] == pytest.approx(second / first)
    assert all(row["temporaries, MB"] > 0 for row in steps)


def test_budgets_are_whole_tens():
    seconds = {"poolformer": 0.1, "slow": 0.3, "fast": 0.05, "slowest": 100.0}
    assert baselines.budgets(seconds, 500) == {
        "poolformer": {"steps": 500, "seconds": 1000},
        "slow": {"steps": 500, "seconds": 330},
        "fast": {"steps": 500, "seconds": 2000},
        "slowest": {"steps": 500, "seconds": 10},
    }


def test_differences_are_those_of_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "_root", lambda: tmp_path)
    cells = {name: baselines.Cell("digits", name, 0) for name in ("mamba", "poolformer_mamba")}
    steps = {name: {"steps": 10, "seconds": 20} for name in cells}
    for cell, mean in zip(cells.values(), (3.0, 2.5), strict=True):
        cell.folder.mkdir(parents=True)
        for budget in (10, 20):
            # The clips differ by more than the systems, which differ by nearly as much on each.
            lines = [
                f"{100 * (1 + i)},{mean + i - budget / 10 - 0.01 * mean * i}" for i in range(5)
            ]
            text = "\n".join(["num_samples,bits_per_sample", *lines])
            (cell.folder / f"likelihood_test_step{budget}.csv").write_text(text)
    (row,) = baselines.differences(cells, steps)
    # Of clips 1 to 5 times as long 0.5 less 0 to 4 times 0.005, on average 0.4867.
    assert (row["model"], row["less"]) == ("mamba", "poolformer_mamba")
    for budget in ("steps equal", "seconds equal"):
        assert row[budget] == "0.49 (0.48 to 0.49)"


@pytest.mark.nightly
def test_systems_are_compared(tables_of, tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    (root / "steps.json").write_text(
        json.dumps(dict(poolformer=0.1, mamba=0.2, poolformer_mamba=0.2))
    )
    models = "poolformer,mamba,poolformer_mamba"
    flags = [f"--models={models}", "--data=digits", f"--workdir={root}"]
    small = ["--steps=10", "--crop=160", "--length=160", "--clips=4"]
    try:
        tables = tables_of(baselines, *flags, *small)
    finally:
        jax.config.update("jax_compilation_cache_dir", None)  # Of this benchmark alone.
    rows = tables["On digits"]
    assert [(row["model"], row["steps, seconds equal"]) for row in rows] == [
        ("poolformer", 20),
        ("mamba", 10),
        ("poolformer_mamba", 10),
    ]
    test = {row["model"]: float(row["test, steps equal"].split()[0]) for row in rows}
    for row in tables["Differences on test clips of digits"]:
        found = float(row["steps equal"].split()[0])
        # Rounded to two digits.
        assert found == pytest.approx(test[row["model"]] - test[row["less"]], abs=0.0061)
    for row in rows:
        # Nothing is learnt within ten steps of warm-up, but little more than a guess is needed.
        assert 6 < float(row["validation, steps equal"].split()[0]) < 9
        for split in ("validation", "test"):
            mean, low, high = map(float, re.findall(r"[\d.]+", row[f"{split}, steps equal"]))
            assert low < mean < high
    assert (tmp_path / "out" / "baselines.svg").stat().st_size > 10_000
