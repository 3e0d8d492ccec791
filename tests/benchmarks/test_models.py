import pytest

from benchmarks import baselines, models
from poolformer_jax.experiment import named_config, named_configs


def test_all_baselines_are_compared():
    known = {name for name in named_configs() if name.startswith("baselines/")}
    compared = {models.config_of(model, "").partition(":")[0] for model in models.MODELS}
    assert compared == (known - {"baselines/sashimi_tied"}) | {"sc09"}
    assert named_config(models.config_of("mamba", "fsdd")).data.name == "fsdd"


@pytest.mark.slow
def test_steps_and_draws_are_measured(tables_of):
    flags = ["--models=poolformer,mamba", "--length=320", "--batch_size=1", "--rounds=1"]
    steps, draws = tables_of(models, *flags, "--drawn=2").values()
    for rows, unit in ((steps, "s/step"), (draws, "s/sample")):
        assert [row["model"] for row in rows] == ["poolformer", "mamba"]
        first, second = (row[unit] for row in rows)
        assert rows[1]["poolformer = 1"] == pytest.approx(second / first)
    assert all(row["temporaries, MB"] > 0 for row in steps)


def test_budgets_are_whole_tens_and_never_more_than_all_steps():
    seconds = {"poolformer": 0.1, "slow": 0.3, "fast": 0.05, "slowest": 100.0}
    assert baselines.budgets(seconds, 1000) == {
        "poolformer": {"steps": 1000, "seconds": 1000},
        "slow": {"steps": 1000, "seconds": 330},
        "fast": {"steps": 1000, "seconds": 1000},
        "slowest": {"steps": 1000, "seconds": 10},
    }
