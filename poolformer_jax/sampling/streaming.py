"""Generation by stepping the recurrence: every level's state is kept, inner levels run when due.

A step of the whole model costs what one sample costs, wherever in the clip it is: 160 steps of
level 0 come with 80 of level 1, 20 and 5 of the next and one of the centre. All steps of a block
are one compiled loop, and nothing grows with the length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Key, Shaped

from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.model import (
    Poolformer,
    PoolformerState,
    batch_axes,
    init_state,
    observe,
)
from poolformer_jax.sampling.draw import Draw, draw_codes, guide_logits

BLOCK_SAMPLES = 800
"""Samples of each clip in a block, 50 ms at 16 kHz."""

Place = Callable[[Any, Sequence[int]], Any]
"""From a tree, and of each leaf the axis that clips are along (-1: none), to it on devices."""

_PRIME_SAMPLES = 128_000  # At most so many samples of all clips' prompts in one parallel pass.


class Block(NamedTuple):
    """Consecutive samples of all clips.

    Attributes:
      codes: [n, t] int32.
      log_probs: [n, t] float32, the model's log-probability of each code given those before it (and
        the label), in nats, whatever guidance, temperature or restriction it was drawn with.
    """

    codes: np.ndarray
    log_probs: np.ndarray


def generate(
    config: PoolformerConfig,
    params: Any,
    key: Key[Array, ""],
    num_samples: int,
    length: int,
    *,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Block:
    """Draws whole clips.

    Args:
      config: Architecture.
      params: Parameters, usually the averaged ones.
      key: Randomness.
      num_samples: Clips.
      length: Samples of each, prompt included.
      on_progress: Called with the number of samples per clip so far.
      **options: `prompt`, `temperature`, `top_k`, `top_p`, `labels`, `guidance`, `clip_ids` and
        `place` of `StreamingGenerator`, which this collects.

    Raises:
      FloatingPointError: If logits are not finite.
      ValueError: If a number is out of range or the prompt is empty or longer than the clip.
    """
    if length < 1:
        raise ValueError(f"length {length} must be at least 1 sample")
    prompt = options.get("prompt")
    to_draw = max(1, length - (0 if prompt is None else np.shape(prompt)[-1]))
    # Powers of two, so that short clips of many lengths share a few programs.
    block_samples = min(BLOCK_SAMPLES, 1 << (to_draw - 1).bit_length())
    generator = StreamingGenerator(
        config, params, key, num_samples, length=length, block_samples=block_samples, **options
    )
    blocks = [generator.prompt]
    for block in generator:
        blocks.append(block)
        if on_progress is not None:
            on_progress(generator.position)
    return Block(*(np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)))


class StreamingGenerator(Iterator[Block]):
    """Yields clips block by block in constant memory, without end if no length is given.

    Clip i of a key is the same whatever clips are drawn beside it, up to the rounding of products
    of another shape: its randomness is the key folded with i, and at each sample with the time
    (modulo 2^32 samples, three days of audio).

    TPUs multiply float32 numbers in bfloat16 unless jax_default_matmul_precision is set to
    "float32", as `launch.sample` does.

    Args:
      config: Architecture.
      params: Parameters, usually the averaged ones.
      key: Randomness.
      num_samples: Clips, drawn side by side.
      length: Samples of each clip, prompt included, after which it stops; None means never.
      prompt: Codes that the clips begin with, [t] for all or [num_samples, t] for each; None means
        from silence on. It is read in parallel passes, not sample by sample.
      temperature: See `Draw`.
      top_k: See `Draw`.
      top_p: See `Draw`.
      labels: Class of each clip, in a model with classes; None means without a label.
      guidance: See `Draw`.
      clip_ids: Number of each clip; 0 to num_samples - 1 if None.
      block_samples: Samples of each clip in a block; the last block may be shorter.
      place: Puts state on devices, split along the clips; None leaves all on the default one.

    Attributes:
      prompt: The prompt as a block, with its log-probabilities; of 0 samples without one.
      position: Samples of each clip so far, prompt included.

    Raises:
      FloatingPointError: If logits are not finite; tells clip and sample.
      ValueError: If a number is out of range, the prompt is empty, too long, of another shape or
        holds something that is no code, or labels do not fit the model.
    """

    def __init__(
        self,
        config: PoolformerConfig,
        params: Any,
        key: Key[Array, ""],
        num_samples: int,
        *,
        length: int | None = None,
        prompt: Shaped[ArrayLike, "..."] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        labels: Shaped[ArrayLike, " _"] | None = None,
        guidance: float = 1.0,
        clip_ids: Sequence[int] | None = None,
        block_samples: int = BLOCK_SAMPLES,
        place: Place | None = None,
    ):
        if num_samples < 1 or block_samples < 1:
            raise ValueError(
                f"num_samples {num_samples} and block_samples {block_samples} must be at least 1"
            )
        draw = Draw(temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
        self._length = length
        self._clip_ids = _check_clip_ids(clip_ids, num_samples)
        rows = _check_labels(labels, num_samples, config, draw)
        codes = _check_prompt(prompt, num_samples, length, config.num_codes)
        fold = jax.vmap(functools.partial(jax.random.fold_in, key))
        keys = fold(jnp.asarray(self._clip_ids, jnp.uint32))
        state = init_state(config, len(rows), rows if config.num_classes else None)
        if place is not None:
            keys, state = place((keys, state), [0, *batch_axes(config)])
        self._params, self._keys, self._state = params, keys, state
        self._draw_block = _compile_block(config, draw, block_samples)
        self.position = 0
        log_probs = np.zeros((num_samples, 0), np.float32)
        if prompt is not None:
            copies = len(rows) // num_samples
            repeated = np.repeat(codes, copies, axis=0)
            self._state, log_probs = prime(config, params, state, repeated)
            log_probs = log_probs[::copies]
        self.prompt = self._finish(codes, log_probs)

    def __next__(self) -> Block:
        if self._length is not None and self.position >= self._length:
            raise StopIteration
        time = np.uint32(self.position % 2**32)
        self._state, codes, log_probs = self._draw_block(
            self._params, self._keys, time, self._state
        )
        wanted = slice(None if self._length is None else self._length - self.position)
        return self._finish(np.asarray(codes)[:, wanted], np.asarray(log_probs)[:, wanted])

    def _finish(self, codes: np.ndarray, log_probs: np.ndarray) -> Block:
        bad = np.argwhere(~np.isfinite(log_probs.T))
        if len(bad):
            sample, clip = bad[0]
            raise FloatingPointError(
                f"the logits of clip {self._clip_ids[clip]} are not finite at sample "
                f"{self.position + sample}; the parameters may have diverged: take an earlier "
                "checkpoint"
            )
        self.position += codes.shape[1]
        return Block(codes, log_probs)


def prime(
    config: PoolformerConfig,
    params: Any,
    state: PoolformerState,
    codes: Int[np.ndarray, "b t"],
) -> tuple[PoolformerState, Float[np.ndarray, "b t"]]:
    """Reads samples: whole windows of the pools in parallel, in long chunks, the rest step by step.

    Args:
      config: Architecture.
      params: Parameters.
      state: The state before them.
      codes: The samples.

    Returns:
      (state after them, the log-probability of each in nats).
    """
    total, (clips, length) = config.total_pool_factor, codes.shape
    chunk = max(total, _PRIME_SAMPLES // clips // total * total)
    read_chunk, read_steps = _compile_prime(config)
    log_probs, start = [], 0
    until_window = -int(state.time) % total
    while start < length:
        whole = min(chunk, (length - start) // total * total)
        if start < until_window:
            read, count = read_steps, min(until_window, length)
        elif whole:
            read, count = read_chunk, whole
        else:
            read, count = read_steps, length - start
        part = codes[:, start : start + count]
        state, part_log_probs = read(params, state, part)
        log_probs.append(np.asarray(part_log_probs))
        start += part.shape[1]
    return state, np.concatenate(log_probs, axis=1)


@functools.lru_cache(maxsize=8)
def _compile_block(config: PoolformerConfig, draw: Draw, block_samples: int) -> Callable:
    model, total = Poolformer(config), config.total_pool_factor

    @jax.jit
    def draw_block(params: Any, keys: Array, start: Array, state: PoolformerState):
        # Only the place in the windows of the pools matters, once they have all begun: a clock that
        # ran on would overflow after a day and a half.
        time = jnp.where(state.time < 2 * total, state.time, total + state.time % total)
        state = dataclasses.replace(state, time=time)

        def draw_one(state: PoolformerState, time: Array):
            outputs: Any = model.apply({"params": params}, state, method="predict")
            logits, state = outputs
            drawn_from, copies = logits, 1
            if draw.guidance != 1.0:
                # Every clip has two rows, with its label and without.
                logits, unconditional = logits[::2], logits[1::2]
                drawn_from, copies = guide_logits(logits, unconditional, draw=draw), 2
            now = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, time)
            codes = draw_codes(drawn_from, now, draw=draw)
            state = observe(state, jnp.repeat(codes, copies))
            # What is drawn from must be finite too, with guidance.
            finite = jnp.all(jnp.isfinite(drawn_from), axis=-1)
            return state, (codes, jnp.where(finite, _log_probs(logits, codes), jnp.nan))

        times = start + jnp.arange(block_samples, dtype=jnp.uint32)
        state, (codes, log_probs) = jax.lax.scan(draw_one, state, times)
        return state, codes.T, log_probs.T

    return draw_block


@functools.lru_cache(maxsize=8)
def _compile_prime(config: PoolformerConfig) -> tuple[Callable, Callable]:
    model = Poolformer(config)

    @jax.jit
    def read_chunk(params: Any, state: PoolformerState, codes: Array):
        outputs: Any = model.apply({"params": params}, codes, state)
        logits, state = outputs
        return state, _log_probs(logits, codes)

    @jax.jit
    def read_steps(params: Any, state: PoolformerState, codes: Array):
        def step(state: PoolformerState, code: Array):
            outputs: Any = model.apply({"params": params}, code, state, method="step")
            logits, state = outputs
            return state, _log_probs(logits, code)

        state, log_probs = jax.lax.scan(step, state, codes.T)
        return state, log_probs.T

    return read_chunk, read_steps


def _log_probs(logits: Float[Array, "*lead v"], codes: Int[Array, "*lead"]) -> Array:
    chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _check_clip_ids(clip_ids: Sequence[int] | None, num_samples: int) -> list[int]:
    if clip_ids is None:
        return list(range(num_samples))
    if len(clip_ids) != num_samples or min(clip_ids) < 0:
        raise ValueError(
            f"clip_ids {list(clip_ids)} must be {num_samples} numbers that are not negative"
        )
    return list(clip_ids)


def _check_labels(
    labels: ArrayLike | None, num_samples: int, config: PoolformerConfig, draw: Draw
) -> np.ndarray:
    """Returns the label of each row: of a clip, or of a clip with its label and without."""
    none, guided = config.num_classes, draw.guidance != 1.0
    if labels is None:
        if guided:
            raise ValueError(f"guidance {draw.guidance} needs labels; 1 means no guidance")
        return np.full(num_samples, none)
    labels = np.asarray(labels)
    if not config.num_classes:
        raise ValueError("labels were given, but the model has no classes: num_classes is 0")
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.shape != (num_samples,) or labels.min() < 0 or labels.max() > none:
        raise ValueError(
            f"labels {labels.tolist()} must be {num_samples} whole numbers, 0 to {none - 1}, or "
            f"{none} for none"
        )
    return np.stack([labels, np.full(num_samples, none)], axis=1).ravel() if guided else labels


def _check_prompt(
    prompt: ArrayLike | None, num_samples: int, length: int | None, num_codes: int
) -> np.ndarray:
    if prompt is None:
        return np.zeros((num_samples, 0), np.int32)
    prompt = np.asarray(prompt)
    if prompt.ndim not in (1, 2) or (prompt.ndim == 2 and len(prompt) != num_samples):
        raise ValueError(
            f"the prompt has shape {prompt.shape}; give codes [t] for all clips, or "
            f"[{num_samples}, t]"
        )
    if not prompt.shape[-1]:
        raise ValueError("the prompt is empty; give at least one sample, or no prompt")
    if not np.issubdtype(prompt.dtype, np.integer):
        raise ValueError(f"the prompt is of type {prompt.dtype}; give codes, which are integers")
    if prompt.min() < 0 or prompt.max() >= num_codes:
        raise ValueError(
            f"the prompt holds codes {prompt.min()} to {prompt.max()}; the model knows 0 to "
            f"{num_codes - 1}"
        )
    if length is not None and prompt.shape[-1] > length:
        raise ValueError(
            f"the prompt of {prompt.shape[-1]} samples is longer than the clip of {length}; cut "
            "the prompt, or ask for a longer clip"
        )
    return np.broadcast_to(prompt, (num_samples, prompt.shape[-1])).astype(np.int32)
