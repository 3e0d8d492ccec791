"""Poolformer: an autoregressive model of raw audio with nested pooled SkipBlocks.

Its rooms, from the ground up: files, config_checks, sharding, typing; audio, ops, layers; models,
data, training, sampling, classifier, evals, pages; experiment. CONTRIBUTING.md has the table.

Nothing is imported here, so that `import poolformer_jax` costs nothing and a program that
only needs the audio codecs never starts JAX.
"""

__version__ = "0.1.0"
