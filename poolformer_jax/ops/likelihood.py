"""Negative log-likelihood of codes in bits, with length masks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


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
    num_steps, num_codes = logits.shape[1:]
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    nats = -jnp.take_along_axis(log_p, codes[..., None], axis=-1)[..., 0]
    mask = jnp.arange(num_steps)[None] < lengths[:, None]
    return jnp.sum(jnp.where(mask, nats - math.log(num_codes), 0.0), axis=1) / math.log(2.0)


def clip_bits(
    logits: Float[Array, "b t v"], codes: Int[Array, "b t"], *, lengths: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Sums -log2 p(code) over the steps before each clip's length.

    Bits per sample of a set of clips are the sum of this over the sum of their lengths, whatever
    the batches: sums and lengths add up, means do not.

    Args:
      logits: Unnormalised log-probabilities; the softmax runs in float32.
      codes: The codes that were observed.
      lengths: Samples of each clip that count, at most t; the rest is padding.

    Returns:
      Bits per clip, 0 for a clip of length 0.
    """
    num_steps, num_codes = logits.shape[1:]
    excess = excess_bits(logits, codes, lengths=lengths)
    return excess + jnp.clip(lengths, 0, num_steps) * math.log2(num_codes)
