"""Negative log-likelihood of codes in bits, with length masks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def excess_sample_bits(
    logits: Float[Array, "b t v"], codes: Int[Array, "b t"]
) -> Float[Array, "b t"]:
    """Computes -log2 p(code) - log2 v of every sample: the bits beyond a uniform model's.

    The log2 v that is the same for every sample is left to whoever adds them up in float64.

    Args:
      logits: Unnormalised log-probabilities; the softmax runs in float32.
      codes: The codes that were observed.
    """
    return _excess_nats(logits, codes) / math.log(2.0)


def excess_bits(
    logits: Float[Array, "b t v"], codes: Int[Array, "b t"], *, lengths: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Sums -log2 p(code) - log2 v, the bits beyond a uniform model's, before each clip's length.

    It is what to sum and average in float32: the partial sums stay small, and the log2 v that is
    the same for every sample is added once, to the mean.

    Args:
      logits: Unnormalised log-probabilities; the softmax runs in float32.
      codes: The codes that were observed.
      lengths: Samples of each clip that count, at most t; the rest is padding.

    Returns:
      Bits per clip beyond lengths * log2 v, 0 for a clip of length 0.
    """
    mask = jnp.arange(codes.shape[1])[None] < lengths[:, None]
    excess = jnp.where(mask, _excess_nats(logits, codes), 0.0)
    return jnp.sum(excess, axis=1) / math.log(2.0)


def _excess_nats(logits: Float[Array, "b t v"], codes: Int[Array, "b t"]) -> Float[Array, "b t"]:
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    nats = -jnp.take_along_axis(log_p, codes[..., None], axis=-1)[..., 0]
    return nats - math.log(logits.shape[-1])
