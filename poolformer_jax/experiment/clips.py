"""Clips in memory, to listen to in a notebook; `launch.sample` fills folders with them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int, Int16

from poolformer_jax import sharding
from poolformer_jax.audio.codec import decode
from poolformer_jax.config_checks import Platform
from poolformer_jax.experiment.conditions import check_amount
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.layers.config import on_platform
from poolformer_jax.models.sequence_model import SequenceModel
from poolformer_jax.ops.draw import Draw
from poolformer_jax.sampling.streaming import generate


def draw_clips(
    experiment: Experiment,
    params: Any,
    num_clips: int,
    *,
    length: int | None = None,
    seed: int = 0,
    labels: Sequence[int] | None = None,
    prompt: Int[np.ndarray, "..."] | None = None,
    draw: Draw | None = None,
) -> Int16[np.ndarray, "b t"]:
    """Draws clips side by side.

    Args:
      experiment: Whose model draws.
      params: Its parameters, see `restore_params`.
      num_clips: Clips; a number that this process's devices divide uses them all.
      length: Samples of a clip, prompt included; data.seq_len if None.
      seed: Of the draw; with a clip's number it decides the clip's randomness.
      labels: Class of each clip, in a model with classes.
      prompt: Codes that the clips begin with, [t] for all or [num_clips, t] for each.
      draw: Temperature, restriction, guidance.

    Returns:
      16-bit samples at 16 kHz.

    Raises:
      FloatingPointError: If logits are not finite.
      UserError: If a number is out of range, or labels or prompt do not fit the model.
    """
    length = experiment.data.seq_len if length is None else length
    with user_errors():
        check_amount(num_clips, length)
    model, devices = drawing_model(experiment), jax.local_devices()
    mesh = sharding.make_mesh(devices=devices[: math.gcd(num_clips, len(devices))])
    # TPUs would multiply float32 numbers in bfloat16 otherwise.
    with user_errors(), jax.default_matmul_precision("float32"):
        codes, _ = generate(
            model,
            sharding.copy_to(mesh, params),
            jax.random.key(seed),
            num_clips,
            length,
            prompt=prompt,
            labels=None if labels is None else np.asarray(labels),
            mesh=mesh,
            draw=draw,
        )
    return np.stack([decode(clip, codec=experiment.data.codec) for clip in codes])


def drawing_model(experiment: Experiment) -> SequenceModel:
    """The model of an experiment as it draws: in float32, on whatever JAX runs on."""
    model = on_platform(experiment.model, cast(Platform, jax.default_backend()))
    return dataclasses.replace(model, dtype="float32").build()
