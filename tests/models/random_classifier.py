"""Parameters and statistics drawn by NumPy, without compiling the initialisation."""

import jax
import numpy as np

from poolformer_jax.models.classifier import init_classifier


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
