"""The binary that compiles for TPU slices: its mistakes, and `digits` really compiled."""

import json

import pytest

from poolformer_jax import experiment as ex
from tests.launch.processes import call, mistake

DIGITS = ("compile_tpu", "--config=digits")
# One layer within one pool compiles in a fraction of the time.
SHALLOW = ("--config.model.pool_factors=(4,)", "--config.model.layers=(0,1)")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--topologies"),
        (["--topology=v7:2x2"], "error: no TPU chip 'v7' in 'v7:2x2'; known: v4, v5e, v5p, v6e"),
        (["--topologies=v5e:2x2,v5e"], "error: no topology 'v5e'; write the chip and its shape"),
        (["--topology=v5e:2x2", "--num_slices=0"], "error: --num_slices 0 must be at least 1"),
        (["--topology=v5e:2x2", "--html="], "error: --html '' must be a path"),
    ],
)
def test_mistakes_are_told_without_compiling(flags, message):
    assert message in mistake(*DIGITS, *flags)


def test_a_missing_libtpu_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs libtpu: pip install -e '.[tpu]'" in mistake(*DIGITS, "--topology=v5e:2x2")


@pytest.mark.tpu_backend
def test_digits_compile_data_parallel(tpu_compiler, tmp_path, capsys):
    path = tmp_path / "digits.json"
    results = call(*DIGITS, *SHALLOW, "--topology=v5e:2x2", f"--json={path}")
    training, evaluation, sampling = json.loads(path.read_text())
    assert all(row["fits"] for row in (training, evaluation, sampling))
    assert json.loads(json.dumps([result.values() for result in results])) == [
        training,
        evaluation,
        sampling,
    ]
    for name in ("hbm_bytes_per_step", "flops_per_step", "compile_seconds"):
        assert training[name] > 0
    assert training["bound"] == "memory"
    assert training["roofline_seconds"] == training["hbm_bytes_per_step"] / 819e9
    assert training["argument_bytes_per_chip"] < training["peak_bytes_per_chip"] < 16e9
    (collective,) = training["collectives"]
    assert (collective["kind"], collective["axes"]) == ("all-reduce", ["data"])
    assert collective["link"] == "ICI"
    # The gradients, once in float32, and some sums.
    config = ex.named_config("digits")
    config.model.update(pool_factors=(4,), layers=(0, 1))
    from poolformer_jax.models.sequence_model import count_params

    gradients = 4 * count_params(ex.make_experiment(config).model.build())
    assert gradients <= collective["num_bytes"] <= 1.01 * gradients
    assert not evaluation["collectives"] and not sampling["collectives"]
    printed = capsys.readouterr().out
    assert "all-reduce" in printed and "prove no speed" in printed


@pytest.mark.tpu_backend
def test_digits_compile_sequence_parallel(tpu_compiler):
    flags = ["--config.mesh.sequence=4", "--topology=v5e:2x2"]
    training, evaluation, _ = call(*DIGITS, *SHALLOW, *flags)
    assert training.fits and training.mesh == {"data": 1, "fsdp": 1, "sequence": 4}
    for program in (training, evaluation):
        assert {one.axes for one in program.collectives} == {("sequence",)}
        assert all(one.link == "ICI" and one.seconds > 0 for one in program.collectives)
    kinds = {one.kind for one in training.collectives}
    assert "all-gather" in kinds  # The states at the borders between the parts.
    assert "all-reduce" in kinds  # The gradients.
