"""Serves a page on this machine that plays what a run's model generates, while it does."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Generator, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Int16

from poolformer_jax import interruption
from poolformer_jax.config_checks import check_range
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.experiment.conditions import choose_label
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.workdir import read_experiment
from poolformer_jax.live.server import HOST, Wish, make_server
from poolformer_jax.ops.draw import Draw

_LOG = logging.getLogger(__name__)


@interruption.keeps("nothing was written")
def play(
    workdir: str | os.PathLike[str],
    *,
    port: int = 8000,
    step: int | str = "best",
    weights: Literal["ema", "raw"] = "ema",
) -> None:
    """Serves the page until it is interrupted.

    Args:
      workdir: Of the run.
      port: Of 127.0.0.1; 0 is any that is free.
      step: Of the checkpoint, see `restore_params`.
      weights: The averaged parameters, or those that were trained.

    Raises:
      UserError: If there is no such checkpoint, or the port is taken.
    """
    with user_errors():
        check_range("port", port, 0, 65_535)
        experiment: Experiment = read_experiment(workdir)

    # Only now the imports of JAX and checkpoints, which take seconds.
    from poolformer_jax.experiment.restore import make_reading_mesh, restore_params

    with user_errors():
        mesh = make_reading_mesh(experiment)
        params, number = restore_params(workdir, experiment, mesh, step=step, weights=weights)
        voice = _Voice(experiment, params, f"{workdir}, step {number:,}")
        try:
            server = make_server(voice, port)
        except OSError as error:
            raise ValueError(
                f"port {port} of {HOST} cannot be had: {error}; --port=0 is any"
            ) from error
    with server:
        voice.warm_up()
        address = f"http://{HOST}:{server.server_port}"
        _LOG.info("open %s in a browser; Ctrl-C ends it", address)
        # In a thread, so that the main one hears signals.
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            thread.join()
        finally:
            server.shutdown()


class _Voice:
    """The model of a run as the page knows it, see `live.server.Speaker`."""

    sample_rate = SAMPLE_RATE

    def __init__(self, experiment: Experiment, params: Any, name: str):
        import jax

        from poolformer_jax.data.builders.features import DIGIT_WORDS
        from poolformer_jax.experiment.clips import drawing_model

        self._experiment, self._model = experiment, drawing_model(experiment)
        self._params = jax.device_put(params, jax.local_devices()[0])
        classes, drops = experiment.model.num_classes, experiment.train.label_dropout > 0
        self.about: Mapping[str, Any] = {
            "model": name,
            "classes": classes,
            "names": DIGIT_WORDS if classes == len(DIGIT_WORDS) else [],
            "any": not classes or drops,
            "guidance": bool(classes and drops),
        }

    def warm_up(self) -> None:
        """Compiles what the page asks for first."""
        label = 0 if self.about["classes"] else None
        next(self.speak(Wish(seconds=0.05, label=label)))

    def speak(self, wish: Wish) -> Generator[Int16[np.ndarray, " t"], None, None]:
        """Checks the wish, and yields blocks of 50 ms, the prompt first."""
        draw = Draw(temperature=wish.temperature, guidance=wish.guidance)
        try:
            label = choose_label(self._experiment, wish.label, draw)(0)
        except ValueError as error:
            raise ValueError(str(error).replace("--", "")) from error  # Here are no flags.
        return self._blocks(wish, draw, label)

    def _blocks(
        self, wish: Wish, draw: Draw, label: int | None
    ) -> Generator[Int16[np.ndarray, " t"], None, None]:
        import jax

        from poolformer_jax.audio.codec import decode, encode
        from poolformer_jax.sampling.streaming import StreamingGenerator

        data, heard, prompt = self._experiment.data, 0, None
        if wish.prompt is not None:
            codes = encode(wish.prompt, codec=data.codec, normalize=data.normalize)
            # Whole chunks are read in parallel; the rest, at the beginning, is not missed.
            heard = len(codes) - len(codes) % self._model.chunk_multiple
            prompt = codes[len(codes) - heard :] if heard else None
        # TPUs would multiply float32 numbers in bfloat16 otherwise.
        with jax.default_matmul_precision("float32"):
            stream = StreamingGenerator(
                self._model,
                self._params,
                jax.random.key(wish.seed),
                1,
                draw=draw,
                length=heard + round(wish.seconds * SAMPLE_RATE),
                prompt=prompt,
                labels=None if label is None else np.array([label]),
            )
            pcm = functools.partial(decode, codec=data.codec)
            if heard:
                yield pcm(stream.prompt.codes[0])
            for block in stream:
                yield pcm(block.codes[0])
