"""A small classifier of spoken digits, for a laptop.

python -m launch.train_classifier --config=configs/digits_classifier.py --workdir=runs/ears
"""

from launch.classifier_experiment import default_config


def get_config():
    config = default_config()

    config.model.kind = "small"

    config.data.name = "digits"

    config.train.num_epochs = 8
    config.train.learning_rate = 0.05
    config.train.weight_decay = 1e-3
    config.train.schedule = "cosine"
    return config
