"""The classifier behind the published sample metrics of SC09: ResNeXt-29 8x64d, 70 epochs.

    python -m launch.prepare_data --dataset=sc09 --manual_dir=FOLDER_OF_THE_ARCHIVE
    python -m launch.train_classifier --config=configs/sc09_classifier.py \\
        --workdir=runs/sc09_classifier

Published: 98.08 % of the test clips, with 34,425,546 parameters. Not reproduced here. Scores to be
compared with published ones need the published weights, see launch.import_classifier.

The noise of the published recipe is in Speech Commands: pass its folder as
--config.data.noise_dir=FOLDER/_background_noise_. Without it, synthetic noise takes its place.
"""

from poolformer_jax.experiment import ClassifierExperiment, default_config


def get_config():
    return default_config(ClassifierExperiment)  # Its defaults are the published recipe.
