"""Generation one code at a time: the model's state is carried from each to the next.

A step costs the same wherever in the clip it is. All steps of a block are one compiled program, and
nothing grows with the length.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Key, Shaped

from poolformer_jax import sharding
from poolformer_jax.models.sequence_model import Noise, SequenceModel, State, batch_axes
from poolformer_jax.ops.draw import Draw

BLOCK_SAMPLES = 800
"""Samples of each clip in a block, 50 ms at 16 kHz."""

_NOISE_SAMPLES = 32  # Their noise is made at once; one by one it is a quarter of a small CPU step.
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
    model: SequenceModel,
    params: Any,
    key: Key[Array, ""],
    num_clips: int,
    length: int,
    *,
    prompt: Shaped[ArrayLike, "..."] | None = None,
    on_progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Block:
    """Draws whole clips.

    Args:
      model: What draws.
      params: Parameters, usually the averaged ones.
      key: Randomness.
      num_clips: Clips.
      length: Samples of each, prompt included.
      prompt: See `StreamingGenerator`.
      on_progress: Called with the number of samples per clip so far.
      **options: `draw`, `labels`, `clip_ids` and `mesh` of `StreamingGenerator`, which this
        collects.

    Raises:
      FloatingPointError: If logits are not finite.
      ValueError: If a number is out of range or the prompt is empty or longer than the clip.
    """
    if length < 1:
        raise ValueError(f"length {length} must be at least 1 sample")
    to_draw = max(1, length - (0 if prompt is None else np.shape(prompt)[-1]))
    # Powers of two, so that short clips of many lengths share a few programs.
    block_samples = min(BLOCK_SAMPLES, 1 << (to_draw - 1).bit_length())
    generator = StreamingGenerator(
        model,
        params,
        key,
        num_clips,
        length=length,
        prompt=prompt,
        block_samples=block_samples,
        **options,
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
      model: What draws.
      params: Parameters, usually the averaged ones.
      key: Randomness.
      num_clips: Clips, drawn side by side.
      draw: Temperature, restriction, guidance.
      length: Samples of each clip, prompt included, after which it stops; None means never.
      prompt: Codes that the clips begin with, [t] for all or [num_clips, t] for each; None means
        from silence on. It is read in parallel passes, not sample by sample.
      labels: Class of each clip, in a model with classes; None means without a label.
      clip_ids: Number of each clip; 0 to num_clips - 1 if None.
      block_samples: Samples of each clip in a block, best a multiple of 32; the last one may be
        shorter.
      mesh: Devices that the clips are split over; None draws where the parameters are.

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
        model: SequenceModel,
        params: Any,
        key: Key[Array, ""],
        num_clips: int,
        *,
        draw: Draw | None = None,
        length: int | None = None,
        prompt: Shaped[ArrayLike, "..."] | None = None,
        labels: Shaped[ArrayLike, " _"] | None = None,
        clip_ids: Sequence[int] | None = None,
        block_samples: int = BLOCK_SAMPLES,
        mesh: Mesh | None = None,
    ):
        if num_clips < 1 or block_samples < 1:
            raise ValueError(
                f"num_clips {num_clips} and block_samples {block_samples} must be at least 1"
            )
        draw = draw or Draw()
        self._length = length
        self._clip_ids = _check_clip_ids(clip_ids, num_clips)
        labels = _check_labels(labels, num_clips, model.num_classes, draw)
        codes = _check_prompt(prompt, num_clips, length, model.num_codes)
        fold = jax.vmap(functools.partial(jax.random.fold_in, key))
        keys = fold(jnp.asarray(self._clip_ids, jnp.uint32))
        state = model.init_state(num_clips, labels, guided=draw.guidance != 1.0)
        if mesh is None:
            self._place = functools.partial(sharding.put_beside, params)
            keys = self._place(keys)
        else:
            self._place = functools.partial(sharding.put_along, mesh, axes=batch_axes(model))
            keys = sharding.put_along(mesh, keys, [0])
        self._params, self._keys, self._state = params, keys, self._place(state)
        self._draw_block = _compile_block(model, draw, block_samples)
        self.position = 0
        log_probs = np.zeros((num_clips, 0), np.float32)
        if prompt is not None:
            state, log_probs = prime(model, params, self._state, codes, mesh=mesh)
            self._state = self._place(state)
        self.prompt = self._finish(codes, log_probs)

    def __next__(self) -> Block:
        if self._length is not None and self.position >= self._length:
            raise StopIteration
        time = np.uint32(self.position % 2**32)
        state, codes, log_probs = self._draw_block(self._params, self._keys, time, self._state)
        # Always in the same place, or the next block would compile once more.
        self._state = self._place(state)
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
    model: SequenceModel,
    params: Any,
    state: State,
    codes: Int[np.ndarray, "b t"],
    *,
    mesh: Mesh | None = None,
) -> tuple[State, Float[np.ndarray, "b t"]]:
    """Reads samples: whole chunks in parallel, as long ones as fit, the rest step by step.

    Args:
      model: What reads.
      params: Parameters.
      state: The state before them.
      codes: The samples.
      mesh: Devices that the state is split over.

    Returns:
      (state after them, the log-probability of each in nats).
    """
    multiple, (clips, length) = model.chunk_multiple, codes.shape
    chunk = max(multiple, _PRIME_SAMPLES // clips // multiple * multiple)
    read_chunk, read_steps = _compile_prime(model, mesh)
    log_probs, start = [], 0
    while start < length:
        whole = min(chunk, (length - start) // multiple * multiple)
        read, count = (read_chunk, whole) if whole else (read_steps, length - start)
        part_log_probs, state = read(params, codes[:, start : start + count], state)
        log_probs.append(np.asarray(part_log_probs))
        start += count
    return state, np.concatenate(log_probs, axis=1)


@functools.lru_cache(maxsize=64)
def _compile_block(model: SequenceModel, draw: Draw, block_samples: int) -> Callable:
    @jax.jit
    def draw_block(params: Any, keys: Array, start: Array, state: State):
        def draw_one(state: State, noise: Noise):
            codes, log_probs, state = model.draw(params, noise, state, draw=draw)
            return state, (codes, log_probs)

        def draw_part(state: State, times: Array):
            fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
            now = jax.vmap(fold, in_axes=(None, 0))(keys, times)
            return jax.lax.scan(draw_one, state, jax.vmap(model.noise)(now))

        times = start + jnp.arange(block_samples, dtype=jnp.uint32)
        parts = times.reshape(-1, math.gcd(block_samples, _NOISE_SAMPLES))
        state, drawn = jax.lax.scan(draw_part, state, parts)
        codes, log_probs = (rows.reshape(block_samples, -1).T for rows in drawn)
        return state, codes, log_probs

    return draw_block


@functools.lru_cache(maxsize=8)
def _compile_prime(model: SequenceModel, mesh: Mesh | None) -> tuple[Callable, Callable]:
    @jax.jit
    def read_steps(params: Any, codes: Array, state: State):
        def step(state: State, code: Array):
            log_probs, state = model.step_log_probs(params, code, state)
            return state, log_probs

        state, log_probs = jax.lax.scan(step, state, codes.T)
        return log_probs.T, state

    return jax.jit(sharding.on_mesh(mesh, model.log_probs)), read_steps


def _check_clip_ids(clip_ids: Sequence[int] | None, num_clips: int) -> list[int]:
    if clip_ids is None:
        return list(range(num_clips))
    if len(clip_ids) != num_clips or min(clip_ids) < 0:
        raise ValueError(
            f"clip_ids {list(clip_ids)} must be {num_clips} numbers that are not negative"
        )
    return list(clip_ids)


def _check_labels(
    labels: ArrayLike | None, num_clips: int, num_classes: int, draw: Draw
) -> Int[Array, " b"] | None:
    if labels is None:
        if draw.guidance != 1.0:
            raise ValueError(f"guidance {draw.guidance} needs labels; 1 means no guidance")
        return None
    labels = np.asarray(labels)
    if not num_classes:
        raise ValueError("labels were given, but the model has no classes: num_classes is 0")
    fits = np.issubdtype(labels.dtype, np.integer) and labels.shape == (num_clips,)
    if not fits or not 0 <= labels.min() <= labels.max() <= num_classes:
        raise ValueError(
            f"labels {labels.tolist()} must be {num_clips} whole numbers, 0 to {num_classes - 1}, "
            f"or {num_classes} for none"
        )
    return jnp.asarray(labels, jnp.int32)


def _check_prompt(
    prompt: ArrayLike | None, num_clips: int, length: int | None, num_codes: int
) -> np.ndarray:
    if prompt is None:
        return np.zeros((num_clips, 0), np.int32)
    prompt = np.asarray(prompt)
    if prompt.ndim not in (1, 2) or (prompt.ndim == 2 and len(prompt) != num_clips):
        raise ValueError(
            f"the prompt has shape {prompt.shape}; give codes [t] for all clips, or "
            f"[{num_clips}, t]"
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
    return np.broadcast_to(prompt, (num_clips, prompt.shape[-1])).astype(np.int32)
