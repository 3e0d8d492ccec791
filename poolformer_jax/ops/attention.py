"""Causal attention over a sliding window, with rotary positions, behind one entry."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jaxtyping import Bool, Float, Int

from poolformer_jax import sharding
from poolformer_jax.ops.scan_pallas_tpu import LANES, interpret_kernels

MAX_BLOCK = 128
"""Queries that are computed together; they see so many steps less than a window before them."""


def attend(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s m h"],
    v: Float[Array, "b s m h"],
    *,
    num_before: Int[Array, ""],
    window: int,
    wavelength: float | None,
    implementation: Literal["dense", "splash"],
) -> Float[Array, "b t n h"]:
    """Computes softmax(q k^T / sqrt(h)) v, each step over the newest steps so far.

    Args:
      q: Queries of t steps, n heads.
      k: Keys of these t steps and of the window - 1 before them, s = window - 1 + t, of m heads,
        each of which serves n / m heads of queries.
      v: Values of the same.
      num_before: How many of the steps before there are; the others, which come first, are not
        looked at.
      window: Steps that a query sees, itself among them.
      wavelength: Of the slowest rotary position, see `rotate`; None is no positions.
      implementation: `dense` computes blocks of the matrix of scores, `splash` is a kernel for TPU.

    Returns:
      The outputs of all heads; softmax in float32, the rest in q's type.

    Source: Vaswani et al. 2017, arXiv:1706.03762; Shazeer 2019, arXiv:1911.02150 (multi-query);
    De et al. 2024, arXiv:2402.19427, section 2.3 (local).
    """
    if wavelength is not None:
        positions = np.arange(k.shape[1])
        q, k = rotate(q, positions[window - 1 :], wavelength), rotate(k, positions, wavelength)
    if implementation == "dense":
        return _dense(q, k, v, num_before, window)

    def kernel(rows: Any, num_before: Any) -> Any:
        q, k, v = rows
        return _splash(q, k, v, num_before, window)

    return sharding.map_batch(kernel, (q, k, v), num_before)


def attend_where(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s m h"],
    v: Float[Array, "b s m h"],
    seen: Bool[Array, "t s"],
) -> Float[Array, "b t n h"]:
    """Computes softmax(q k^T / sqrt(h)) v over the steps that are seen, by the whole matrix."""
    with jax.numpy_dtype_promotion("standard"):  # JAX's own function mixes types.
        return jax.nn.dot_product_attention(q, k, v, mask=seen[None, None])


def rotate(
    x: Float[Array, "b t n h"], positions: Int[Array | np.ndarray, " t"], wavelength: float
) -> Float[Array, "b t n h"]:
    """Rotates the first half of each head by its position: x_i and x_{i + h/4} as one plane.

    The angle is position * wavelength^(-i / (h / 4)), for positions of NumPy in float64.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2; half of a head as in De et al. 2024.
    """
    quarter = x.shape[-1] // 4
    frequencies = wavelength ** (-np.arange(quarter) / quarter)
    if isinstance(positions, np.ndarray):
        angles = positions[:, None] * frequencies
        cos, sin = jnp.float32(np.cos(angles)), jnp.float32(np.sin(angles))
    else:
        angles = positions.astype(jnp.float32)[:, None] * jnp.float32(frequencies)[None]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
    cos, sin = cos[None, :, None], sin[None, :, None]
    a, b, rest = jnp.split(x.astype(jnp.float32), [quarter, 2 * quarter], axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1).astype(x.dtype)


def _dense(q, k, v, num_before, window):
    """Blocks of queries beside each other, each with the keys that one of them sees."""
    b, t, n, h = q.shape
    block = min(t, window, MAX_BLOCK)
    blocks, before = -(-t // block), window - 1

    def pad(x):
        return jnp.pad(x, ((0, 0), (0, blocks * block - t), (0, 0), (0, 0)))

    starts = block * np.arange(blocks)
    keys = starts[:, None] + np.arange(before + block)
    age = before + np.arange(block)[:, None] - np.arange(before + block)
    seen = (age >= 0) & (age < window)
    exists = jnp.asarray(keys) >= before - num_before
    y = jax.vmap(
        lambda q, k, v, exists: attend_where(q, k, v, jnp.asarray(seen) & exists[None]),
        in_axes=(1, 1, 1, 0),
        out_axes=1,
    )(pad(q).reshape(b, blocks, block, n, h), pad(k)[:, keys], pad(v)[:, keys], exists)
    return y.reshape(b, blocks * block, n, h)[:, :t]


def _splash(q, k, v, num_before, window):
    """A kernel that visits only the blocks of scores that a window touches.

    Source: `jax.experimental.pallas.ops.tpu.splash_attention`.
    """
    (_, t, n, h), m = q.shape, k.shape[2]
    before = -(-(window - 1) // LANES) * LANES
    steps = -(-t // LANES) * LANES
    mask = splash_attention_mask.LocalMask((steps, before + steps), (window - 1, 0), before)
    masks = splash_attention_mask.MultiHeadMask([mask] * n)
    make = (
        splash_attention_kernel.make_splash_mqa_single_device
        if m == 1
        else splash_attention_kernel.make_splash_mha_single_device
    )
    kernel = make(masks, interpret=interpret_kernels())
    exists = jnp.arange(before + steps) >= before - num_before
    segments = splash_attention_kernel.SegmentIds(
        q=jnp.ones(steps, jnp.int32), kv=exists.astype(jnp.int32)
    )

    def heads_first(x, first):
        x = jnp.pad(x, ((0, 0), (first, steps - t), (0, 0), (0, 0)))
        return jnp.swapaxes(x, 1, 2)

    q = heads_first(q * jnp.asarray(h**-0.5, q.dtype), 0)
    k, v = (heads_first(x, before - (window - 1)) for x in (k, v))
    k, v = (x[:, 0] if m == 1 else jnp.repeat(x, n // m, axis=1) for x in (k, v))
    y = jax.vmap(functools.partial(kernel, segment_ids=segments))(q, k, v)
    return jnp.swapaxes(y, 1, 2)[:, :t]
