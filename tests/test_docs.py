"""The example of a page runs, and the pages of the API name what there is."""

import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from poolformer_jax import experiment
from poolformer_jax.layers.config import ExecutionConfig

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def test_example_of_a_mixer(tmp_path, monkeypatch):
    page = (DOCS / "adding_a_mixer.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "example_of_a_mixer.py").write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    example = importlib.import_module("example_of_a_mixer")
    # Of a whole model; log-probabilities are of order 5 nats.
    assert example.difference < 1e-5

    half_life, steps = 4.0, 9
    mixer = example.EMAConfig(half_life=half_life).build(ExecutionConfig(platform="cpu"))
    x = jax.random.normal(jax.random.key(0), (2, steps, 3))
    start = mixer.init_state(2, 3)
    variables = mixer.init(jax.random.key(1), x, start)
    whole, last = mixer.apply(variables, x, start)
    a, lag = 0.5 ** (1 / half_life), np.subtract.outer(np.arange(steps), np.arange(steps))
    weights = np.where(lag < 0, 0.0, (1 - a) * a ** np.maximum(lag, 0))
    # Float32 rounding of nine steps with values of order 1.
    np.testing.assert_allclose(whole, np.einsum("ts,bsd->btd", weights, x), atol=1e-6)
    np.testing.assert_allclose(last, whole[:, -1], atol=1e-6)
    first, state = mixer.apply(variables, x[:, :5], start)
    second, _ = mixer.apply(variables, x[:, 5:], state)
    # The same operations in the same order.
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)


def test_api_pages_name_what_there_is():
    named = {
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    calls = {name for name in named if name.startswith("poolformer_jax.experiment.")}
    assert {name.rpartition(".")[2] for name in calls} == set(experiment.__all__)
