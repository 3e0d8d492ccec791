"""Fills a folder with generated clips, batch after batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from poolformer_jax.audio.codec import CodecName, decode
from poolformer_jax.models.sequence_model import SequenceModel
from poolformer_jax.ops.draw import Draw
from poolformer_jax.sampling.folder import SampleFolder, make_row
from poolformer_jax.sampling.streaming import generate


def draw_samples(
    folder: SampleFolder,
    clips: Sequence[int],
    *,
    model: SequenceModel,
    params: Any,
    seed: int,
    batch_size: int,
    length: int,
    codec: CodecName,
    draw: Draw,
    prompt: Int[np.ndarray, " t"] | None = None,
    label_of: Callable[[int], int | None] = lambda clip: None,
    mesh: Mesh | None = None,
    on_progress: Callable[[int], None] = lambda samples: None,
) -> None:
    """Draws clips and adds each batch to the folder as soon as it is complete.

    All batches have the same size, the last one filled up with clips that are thrown away, so that
    one program draws them all, and a resumed run does what an uninterrupted one would have done.

    Args:
      folder: Where the clips go.
      clips: Their numbers.
      model: What draws.
      params: Parameters.
      seed: Of the draw; with a clip's number it decides the clip's randomness.
      batch_size: Clips drawn side by side.
      length: Samples of a clip, prompt included.
      codec: What the codes mean.
      draw: How codes are drawn.
      prompt: Codes that every clip continues.
      label_of: From a clip's number to its class.
      mesh: Devices that a batch is split over.
      on_progress: Called with the number of samples that were drawn since the last call.

    Raises:
      FloatingPointError: If logits are not finite; the batches before are in the folder.
      ValueError: If a number is out of range.
    """
    start = 0 if prompt is None else len(prompt)
    if start >= length:
        raise ValueError(f"a prompt of {start} samples leaves nothing to draw of {length}")
    for first in range(0, len(clips), batch_size):
        batch = clips[first : first + batch_size]
        clip_ids = [*batch, *[batch[-1]] * (batch_size - len(batch))]
        labels = [label_of(clip) for clip in clip_ids]
        done = start

        def report(position: int, batch: Sequence[int] = batch) -> None:
            nonlocal done
            on_progress((position - done) * len(batch))
            done = position

        codes, log_probs = generate(
            model,
            params,
            jax.random.key(seed),
            batch_size,
            length,
            prompt=prompt,
            labels=None if labels[0] is None else np.array(labels),
            clip_ids=clip_ids,
            mesh=mesh,
            on_progress=report,
            draw=draw,
        )
        for row, clip in enumerate(batch):
            summary = make_row(clip, seed=seed, label=labels[row], log_probs=log_probs[row, start:])
            folder.add(summary, decode(codes[row], codec=codec))


def hash_params(params: Any) -> str:
    """SHA-256 of all parameters, which tells whose clips a folder holds."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
