"""Distributions over codes: log-probabilities of given ones, bits, drawing."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from poolformer_jax.ops.draw import Draw


@jax.checkpoint
def log_probs_of(
    logits: Float[Array, "*lead v"], codes: Int[Array, "*lead"]
) -> Float[Array, "*lead"]:
    """Computes log p(code) in nats.

    The gradient is computed from the logits again: nothing else of their size is kept.

    Args:
      logits: Unnormalised log-probabilities; the softmax runs in float32.
      codes: The codes that were observed.
    """
    logits = logits.astype(jnp.float32)
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    # Picked by a mask: the gradient of indexing is a scatter, which accelerators do one by one.
    every_code = jax.lax.broadcasted_iota(codes.dtype, logits.shape, logits.ndim - 1)
    is_observed = codes[..., None] == every_code
    observed = jnp.sum(jnp.where(is_observed, shifted, 0.0), axis=-1)
    return observed - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))


def excess_bits(log_probs: Float[Array, "..."], num_codes: int) -> Float[Array, "..."]:
    """Computes -log2 p(code) - log2 v, the bits beyond a uniform model's.

    It is what to sum and average in float32: the partial sums stay small, and the log2 v that is
    the same for every sample is added once, to the mean, or in float64.

    Args:
      log_probs: Of the observed codes, in nats.
      num_codes: v.
    """
    return (-log_probs - math.log(num_codes)) / math.log(2.0)


def mask_padding(values: Float[Array, "b t"], *, lengths: Int[Array, " b"]) -> Float[Array, "b t"]:
    """Puts 0 at and behind each clip's length, where samples do not count."""
    counts = jnp.arange(values.shape[1])[None] < lengths[:, None]
    return jnp.where(counts, values, 0.0)


_GREEDY = 1e-6  # Temperatures below would overflow float32.


def guide_logits(
    conditional: Float[Array, "b v"], unconditional: Float[Array, "b v"], *, draw: Draw
) -> Float[Array, "b v"]:
    """Moves the logits without the label towards those with it, and beyond."""
    return unconditional + draw.guidance * (conditional - unconditional)


def draw_codes(
    logits: Float[Array, "b v"], noise: Float[Array, "b v"], *, draw: Draw
) -> Int[Array, " b"]:
    """Draws a code of each row: that with the largest sum of logit and standard Gumbel noise."""
    if draw.temperature < _GREEDY:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.argmax(restrict_logits(logits, draw=draw) + noise, axis=-1).astype(jnp.int32)


def restrict_logits(logits: Float[Array, "b v"], *, draw: Draw) -> Float[Array, "b v"]:
    """Applies temperature, then top-k, then top-p; codes that are ruled out get -inf.

    Ties at the border are kept, so more than `top_k` codes may remain.
    """
    # From the largest one: a low temperature must not overflow.
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / draw.temperature
    if draw.top_k is not None and draw.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, draw.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if draw.top_p < 1.0:
        descending = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(descending, axis=-1)
        # What the likelier codes add up to: the first one is always kept.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = jnp.sum(before < draw.top_p, axis=-1, keepdims=True)
        least = jnp.take_along_axis(descending, kept - 1, axis=-1)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
