import json

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


@pytest.mark.nightly
def test_systems_are_compared(tables_of, tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    (root / "steps.json").write_text(json.dumps({"poolformer": 0.1, "mamba": 0.2}))
    flags = ["--models=poolformer,mamba", "--data=digits", f"--workdir={root}"]
    small = ["--steps=10", "--crop=160", "--length=160", "--clips=4"]
    try:
        rows = tables_of(baselines, *flags, *small)["On digits"]
    finally:
        jax.config.update("jax_compilation_cache_dir", None)  # Of this benchmark alone.
    assert [(row["model"], row["steps, seconds equal"]) for row in rows] == [
        ("poolformer", 20),
        ("mamba", 10),
    ]
    for row in rows:
        # Nothing is learnt within ten steps of warm-up, but little more than a guess is needed.
        assert 6 < float(row["validation, steps equal"]) < 9
        low, high = row["test, steps equal"].partition("(")[2].rstrip(")").split(" to ")
        assert float(low) < float(row["test, steps equal"].split()[0]) < float(high)
    assert (tmp_path / "out" / "baselines.svg").stat().st_size > 10_000
