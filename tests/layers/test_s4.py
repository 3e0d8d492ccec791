"""What is S4's own: initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.mixer_config import S4Config, S4DConfig
from poolformer_jax.ops import hippo


@pytest.mark.parametrize(
    ("config", "modes", "rows"),
    [
        (S4Config(), hippo.legs(32), 128),
        (S4DConfig(init="lin"), hippo.diagonal("lin", 32), 128),
        (S4DConfig(init="inv", tied=True), hippo.diagonal("inv", 32), 1),
    ],
)
def test_initial_values(config, modes, rows):
    mixer = config.build(ExecutionConfig(platform="cpu"))
    inputs = jnp.zeros((1, 4, 128)), mixer.init_state(1, 128)
    params = mixer.init(jax.random.key(0), *inputs)["params"]

    constants = {"B": modes.b} | ({"P": modes.p} if config.kind == "s4" else {})
    wanted = {name: np.stack([z.real, z.imag], axis=-1) for name, z in constants.items()}
    wanted |= {"A_imag": modes.frequency, "A_real": np.full(32, np.log(0.5))}
    for name, values in wanted.items():
        np.testing.assert_array_equal(params[name], np.float32(np.stack([values] * rows)))
    assert params.keys() == wanted.keys() | {"C", "D", "inv_dt", "output_projection"}

    dt = jax.nn.softplus(params["inv_dt"])
    # Float32 rounding of the inverse of softplus.
    assert 1e-3 * (1 - 1e-5) <= dt.min() < 1.2e-3 and 0.08 < dt.max() <= 0.1 * (1 + 1e-5)
    np.testing.assert_allclose(np.median(np.log10(dt)), -2, atol=0.25)
    # To five standard errors: of both planes of C together, each number has variance 1.
    for name, shape, deviation in (("C", (128, 32, 2), 0.5**0.5), ("D", (128,), 1.0)):
        assert params[name].shape == shape
        error = deviation / np.sqrt(params[name].size)
        assert abs(np.mean(params[name])) < 5 * error
        assert abs(np.std(params[name]) - deviation) < 5 * error / 2**0.5
    for values in params["output_projection"].values():
        # The largest of 256 is below 0.95 of the bound with probability 2e-6.
        assert 0.95 * 128**-0.5 < np.abs(values).max() <= 128**-0.5
