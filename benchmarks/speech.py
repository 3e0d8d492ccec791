"""How much of what a model of digits says is recognised, and what changes it?

    python -m benchmarks.speech --pretrained=digits
    python -m benchmarks.speech --workdir=runs/digits_steady --temperatures=1,0.8 --guidances=1.5

Draws clips with the labels in turn and asks the classifier of digits what it hears: at several
temperatures, with several weights of guidance, and where clips continue the first milliseconds of
real test words. The share is of clips heard as their label; real test clips stand beside them. The
classifier is the one that comes with the package, of what eSpeak NG says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Int16

from benchmarks.side_by_side import define_out, publish
from launch import command_line
from poolformer_jax import experiment as ex
from poolformer_jax.audio.codec import decode, encode
from poolformer_jax.classifier.clips import LabelledClips
from poolformer_jax.classifier.files import SavedClassifier, load_classifier
from poolformer_jax.classifier.inference import classify_labelled
from poolformer_jax.classifier.log_mel import CLIP_LENGTH, SAMPLE_RATE
from poolformer_jax.config_checks import check_range
from poolformer_jax.data.source import label_names, open_splits
from poolformer_jax.experiment.conditions import choose_label
from poolformer_jax.experiment.pretrained import pretrained_classifier

_FLAGS = flags.FlagValues()
command_line.define_run(_FLAGS)
_CLIPS = flags.DEFINE_integer(
    "num_samples", 200, "Clips of each row.", lower_bound=10, flag_values=_FLAGS
)
_TEMPERATURES = flags.DEFINE_list("temperatures", "1,0.9,0.8", "To draw at.", flag_values=_FLAGS)
_GUIDANCES = flags.DEFINE_list("guidances", "1.5,2", "Weights, at 1.", flag_values=_FLAGS)
_PROMPTS = flags.DEFINE_list(
    "prompts", "10,50,150", "Milliseconds of a word that clips continue.", flag_values=_FLAGS
)
_STEP = command_line.define_step(_FLAGS)
_OUT = define_out(_FLAGS)


def main(argv):
    """Draws, listens."""
    del argv
    workdir = command_line.run_of(_FLAGS)
    experiment: Any = ex.read_experiment(workdir)
    with ex.user_errors():
        classifier = load_classifier(pretrained_classifier(experiment.data.name))
        draws = {f"temperature {t}": ex.Draw(temperature=float(t)) for t in _TEMPERATURES.value}
        draws |= {f"guidance {g}": ex.Draw(guidance=float(g)) for g in _GUIDANCES.value}
        for draw in draws.values():
            choose_label(experiment, "cycle", draw)  # Complains of what the model cannot do.
        prompts = [int(ms) * SAMPLE_RATE // 1_000 for ms in _PROMPTS.value]
    params, _ = ex.restore_params(workdir, step=_STEP.value)
    test = open_splits(experiment.data)["test"]
    real = [test[i] for i in range(min(_CLIPS.value, len(test)))]
    labels = [int(clip["label"]) for clip in real]
    data = experiment.data
    codes = [encode(clip["audio"], codec=data.codec, normalize=data.normalize) for clip in real]
    shortest = min(map(len, codes))
    with ex.user_errors():
        for length in prompts:
            check_range("prompts, in samples:", length, 1, shortest - 1)
    names = label_names(test)

    heard = [decode(clip, codec=data.codec) for clip in codes]
    rows = [_listen("real test clips", heard, labels, classifier, names)]
    turns = [number % experiment.model.num_classes for number in range(_CLIPS.value)]
    for title, draw in draws.items():
        clips = ex.draw_clips(experiment, params, len(turns), labels=turns, draw=draw)
        rows.append(_listen(title, clips, turns, classifier, names))
    for length in prompts:
        prompt = np.stack([clip[:length] for clip in codes]).astype(np.int32)
        clips = ex.draw_clips(experiment, params, len(labels), labels=labels, prompt=prompt)
        title = f"after {1_000 * length // SAMPLE_RATE} ms of real words"
        rows.append(_listen(title, clips, labels, classifier, names))
    publish("speech", {"Share of clips that are recognised": rows}, _OUT.value)


def _listen(
    title: str,
    clips: Sequence[Int16[np.ndarray, " t"]],
    labels: Sequence[int],
    classifier: SavedClassifier,
    names: Sequence[str],
) -> dict[str, Any]:
    """A row of the table: what is recognised, in all and of each class."""
    audio = np.zeros((len(clips), CLIP_LENGTH), np.int16)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip[:CLIP_LENGTH]
    found = classify_labelled(
        classifier.config,
        classifier.params,
        classifier.stats,
        LabelledClips(audio, np.array(labels, np.int32)),
        batch_size=50,
    )
    confusion = found.confusion()
    assert confusion is not None
    return {
        "clips": title,
        "recognised": found.accuracy,
        "class entropy": found.class_entropy,
        **{
            name: row[label] / row.sum() if row.sum() else None
            for label, (name, row) in enumerate(zip(names, confusion, strict=True))
        },
    }


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
