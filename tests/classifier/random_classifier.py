"""Parameters and statistics drawn by NumPy, without compiling the initialisation."""

import jax
import numpy as np

from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.files import SavedClassifier
from poolformer_jax.classifier.network import init_classifier


def random_classifier(config, seed=0):
    """(params, stats), float32, away from their initial values; variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        if leaf.ndim > 1:
            return (rng.standard_normal(leaf.shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(lambda key: init_classifier(config, key), jax.random.key(0))
    return jax.tree.map(draw, shapes)


def saved_classifier(seed=0, class_names=tuple("0123456789")):
    """A small one, as `load_classifier` returns it."""
    config = ClassifierConfig(kind="small", num_classes=len(class_names))
    params, stats = random_classifier(config, seed)
    return SavedClassifier(
        config=config,
        class_names=class_names,
        source={"drawn_with_seed": seed},
        params=params,
        stats=stats,
    )
