"""Trains a classifier of spoken words, or goes on training it.

    python -m launch.train_classifier --config=configs/digits_classifier.py --workdir=runs/ears

Writes the classifier that is best on the validation clips to <workdir>/classifier.json and
<workdir>/classifier.npz, and what it makes of the test clips to <workdir>/classifier_test.json.
The same command again goes on after the last complete epoch. One process trains on all of its
devices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from launch import command_line
from poolformer_jax.experiment.classifier import make_classifier_experiment
from poolformer_jax.experiment.sections import CONFIG_FILE, check_workdir, write_experiment

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, configs/*_classifier.py."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the classifier.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets; overrides the config's.")
flags.mark_flag_as_required("config")


def main(argv):
    """Checks everything that is cheap to check, then trains."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    with command_line.user_errors():
        config = _CONFIG.value.to_dict()
        if _DATA_DIR.value:
            config["data"]["data_dir"] = _DATA_DIR.value
        experiment = make_classifier_experiment(config)
        changes = check_workdir(workdir, experiment)

    # Only now the imports of data sets, checkpoints and the rest, which take seconds.
    from poolformer_jax import sharding
    from poolformer_jax.classifier.clips import (
        epoch_batches,
        label_names,
        read_labelled_clips,
        read_noise,
        synthetic_noise,
    )
    from poolformer_jax.classifier.files import (
        DESCRIPTION,
        load_classifier,
        save_classifier,
    )
    from poolformer_jax.classifier.inference import classify_labelled
    from poolformer_jax.classifier.network import count_params
    from poolformer_jax.classifier.training import train_classifier
    from poolformer_jax.data.source import open_splits
    from poolformer_jax.experiment.environment import describe_environment
    from poolformer_jax.training.loop import TrainingDivergedError

    model, data, train = experiment.model, experiment.data, experiment.train
    mesh = sharding.make_mesh()
    with command_line.user_errors():
        if (workdir / DESCRIPTION).exists() and not (workdir / CONFIG_FILE).exists():
            raise ValueError(
                f"--workdir={workdir} holds a classifier that was not trained there; choose another"
            )
        sharding.check_batch_size("train.batch_size", train.batch_size, mesh)
        noise = None  # Clips are then taken as they are.
        if experiment.augment.probability > 0:
            noise = read_noise(data.noise_dir) if data.noise_dir else synthetic_noise(train.seed)
        sources = open_splits(data)
    class_names = label_names(sources["train"])
    clips = {split: read_labelled_clips(source) for split, source in sources.items()}

    environment = describe_environment(count_params(model))
    write_experiment(workdir, experiment)
    text = json.dumps(environment, indent=2)
    (workdir / "environment.json").write_text(text + "\n", encoding="utf-8")
    print(
        f"{environment['num_parameters']:,} parameters | {len(clips['train']):,} training, "
        f"{len(clips['validation']):,} validation and {len(clips['test']):,} test clips | "
        f"{mesh.size} {environment['platform']} devices",
        flush=True,
    )
    for change in changes:
        print(f"changed since the last start: {change}", flush=True)

    def batches(epoch):
        size = train.batch_size
        return epoch_batches(
            clips["train"], batch_size=size, seed=train.seed, epoch=epoch, noise=noise
        )

    def evaluate(params, stats, split="validation"):
        return classify_labelled(model, params, stats, clips[split], mesh=mesh)

    try:
        train_classifier(
            model_config=model,
            train_config=train,
            augment_config=experiment.augment,
            class_names=class_names,
            source={
                "trained_on": data.name,
                "training_clips_sha256": hashlib.sha256(clips["train"].audio.data).hexdigest(),
                "git_commit": environment["git_commit"],
            },
            mesh=mesh,
            batches=batches,
            evaluate=lambda params, stats: evaluate(params, stats).summary(),
            workdir=workdir,
        )
    except TrainingDivergedError as error:
        sys.exit(f"error: {error}")

    best = load_classifier(workdir)
    result = evaluate(best.params, best.stats, "test")
    source = {**best.source, "test_accuracy": result.accuracy}
    save_classifier(workdir, dataclasses.replace(best, source=source))
    test = {
        "data": data.name,
        **result.summary(),
        "class_names": class_names,
        "confusion": result.confusion().tolist(),
    }
    path = workdir / "classifier_test.json"
    path.write_text(json.dumps(test, indent=2) + "\n", encoding="utf-8")
    print(
        f"{result.accuracy:.2%} of {len(clips['test']):,} test clips ("
        f"{best.source['validation_accuracy']:.2%} of validation, after epoch "
        f"{best.source['epochs']}); classifier in {workdir}, confusions in {path}"
    )


if __name__ == "__main__":
    command_line.run(main)
