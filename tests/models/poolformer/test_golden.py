"""The model reproduces the reference: logits, loss and gradients of every golden file."""

import dataclasses
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from poolformer_jax.ops.categorical import excess_bits, log_probs_of, mask_padding
from tests import oracle
from tests.models.poolformer.golden import Golden, read_golden

# Made by `make_golden.py` with the NumPy oracle, and those of the reference, if one is at hand.
FILES = [pathlib.Path(__file__).parent / "golden_small.npz"]
if DIRECTORY := os.environ.get("POOLFORMER_GOLDEN_DIR"):
    found = sorted(pathlib.Path(DIRECTORY).glob("golden*.npz"))
    if not found:
        raise FileNotFoundError(f"POOLFORMER_GOLDEN_DIR={DIRECTORY} has no golden*.npz")
    FILES += found


@dataclasses.dataclass(frozen=True)
class Run:
    """A golden file and what the model makes of it."""

    golden: Golden
    logits: np.ndarray
    loss: float
    gradients: dict


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def run(request):
    """Logits and gradients from one program: compiling it takes nearly all of the time."""
    golden = read_golden(request.param)
    return run_model(golden, golden.config)


def run_model(golden, config):
    model = config.build()

    def loss(params):
        logits, _ = model.logits(params, golden.codes)
        # As in training: float32, and what all samples share is added once.
        excess = excess_bits(log_probs_of(logits, golden.codes), model.num_codes)
        total = jnp.sum(mask_padding(excess, lengths=golden.lengths))
        count = jnp.sum(golden.lengths).astype(jnp.float32)
        return total / count + math.log2(model.num_codes), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(golden.params)
    return Run(golden, np.asarray(logits), float(value), gradients)


def test_golden_logits(run):
    error = np.abs(run.logits - run.golden.logits).max()
    print(f"max |logit error| {error:.2e} at scale {np.abs(run.golden.logits).max():.2f}")
    # Both sides are float32 with about ten layers of rounding.
    assert error <= 2e-5


def test_golden_logits_of_oracle(run):
    golden = run.golden
    logits = oracle.forward(golden.config, golden.params, np.asarray(golden.codes))
    # float64 against the reference's float32.
    np.testing.assert_allclose(logits, golden.logits, atol=2e-5, rtol=0)
    assert oracle.bits(logits, golden.codes, golden.lengths) == pytest.approx(
        golden.loss_bits, abs=1e-6
    )


def test_golden_loss(run):
    print(f"loss {run.loss:.7f}, error {abs(run.loss - run.golden.loss_bits):.1e}")
    assert run.loss == pytest.approx(run.golden.loss_bits, abs=1e-6)  # One float32 ulp at 9 bits.


def test_golden_loss_of_evaluation(run):
    """Single samples in float32, summed in float64."""
    log_probs = log_probs_of(jnp.asarray(run.logits), run.golden.codes)
    excess = np.asarray(excess_bits(log_probs, run.logits.shape[-1]), np.float64)
    counts = np.arange(excess.shape[1]) < np.asarray(run.golden.lengths)[:, None]
    loss = excess[counts].mean() + math.log2(run.logits.shape[-1])
    assert loss == pytest.approx(run.golden.loss_bits, abs=1e-6)


def test_golden_gradients(run):
    if not run.golden.gradients:
        pytest.skip("the file has no gradients")
    ours, golden = (flatten_dict(g, sep="/") for g in (run.gradients, run.golden.gradients))
    assert set(ours) == set(golden)
    worst = 0.0
    for path, expected in golden.items():
        found = np.asarray(ours[path])
        # The parameters of a stack of layers are one array here, each layer's an own one there.
        layers = zip(found, expected, strict=True) if "/layers/" in path else [(found, expected)]
        for mine, theirs in layers:
            error, scale = np.abs(mine - theirs).max(), np.abs(theirs).max()
            # A gradient may be exactly 0, where no sample that counts depends on the parameter.
            assert error <= 1e-4 * scale, (
                f"gradient of {path}: error {error:.1e}, scale {scale:.1e}"
            )
            worst = max(worst, error / scale if scale else 0.0)
    print(f"worst relative gradient error {worst:.1e}")


@pytest.mark.usefixtures("interpreted_kernels")
@pytest.mark.parametrize("scan", ["fused", "pallas"])
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.nightly if number else pytest.mark.slow)
        for number, path in enumerate(FILES)
    ],
)
def test_golden_through_the_kernels(path, scan):
    golden = read_golden(path)
    run = run_model(golden, dataclasses.replace(golden.config, scan=scan, platform="tpu"))
    test_golden_logits(run)
    test_golden_loss(run)
    test_golden_gradients(run)
