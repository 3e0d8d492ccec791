"""The systems that Poolformer is compared with train, resume, are evaluated and draw as it does."""

import jax
import numpy as np
import pytest

from poolformer_jax import experiment as ex

pytestmark = pytest.mark.nightly  # Their mixers keep the same promises in their own tests.

ONE = jax.devices()[:1]


NAMES = sorted(name for name in ex.named_configs() if name.startswith("baselines/"))


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_resumes_is_evaluated_and_draws(name, tiny_config, tmp_path):
    experiment = ex.make_experiment(ex.named_config(f"{name}:digits"))
    middle = [0] * (len(experiment.model.layers) - 2)
    experiment = ex.replace(
        experiment,
        model={"width": 16, "layers": (1, *middle, 1), "num_classes": 10},
        data={
            "name": "digits_tiny",
            "data_dir": tiny_config.data_dir,
            "seq_len": 640,
            "train_len": 320,
            "eval_clips": 6,
        },
        train={"num_steps": 4, "label_dropout": 0.5, "log_every": 1, "schedule": "constant"},
    )

    def parameters(workdir, *ends):
        for steps in ends:
            ex.train(ex.replace(experiment, train={"num_steps": steps}), workdir, devices=ONE)
        return ex.restore_params(workdir)[0]

    whole = parameters(tmp_path / "whole", 4)
    resumed = parameters(tmp_path / "resumed", 2, 4)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)

    bits = [
        ex.evaluate_likelihood(
            tmp_path / "whole", chunk_length=length, batch_size=size, devices=ONE
        )["bits_per_sample"]
        for length, size in ((640, 6), (160, 4))
    ]
    assert 5 < bits[0] < 11
    # Sums of float32 in another order.
    assert bits[1] == pytest.approx(bits[0], abs=1e-5)

    options = {"length": 320, "labels": [4, 7, 7], "draw": ex.Draw(guidance=3.0)}
    clips = ex.draw_clips(experiment, whole, 3, **options)
    assert len({clip.tobytes() for clip in clips}) == 3
    np.testing.assert_array_equal(ex.draw_clips(experiment, resumed, 3, **options), clips)
