import pytest

from poolformer_jax.training.config import TrainConfig


def test_published_recipe_is_the_default():
    config = TrainConfig()
    assert config.num_steps == 500 * 973
    assert (config.batch_size, config.learning_rate, config.warmup_steps) == (32, 2e-3, 1000)
    assert (config.beta1, config.beta2, config.weight_decay) == (0.9, 0.999, 1e-4)
    assert (config.clip_norm, config.skip_norm, config.ema_decay) == (200.0, 1000.0, 0.999)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 10, "grad_accum_steps": 4}, "batch_size 10 .* grad_accum_steps 4"),
        ({"num_steps": 0}, "num_steps 0 must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate -1.0 must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be finite"),
        ({"ema_decay": 1.0}, r"ema_decay 1.0 must be in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay -0.1 must be at least 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_values_that_cannot_work_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)
