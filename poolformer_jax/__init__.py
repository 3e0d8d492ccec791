"""Poolformer: an autoregressive model of raw audio with nested pooled SkipBlocks.

The package is a stack of layers; imports go downward only:

  launch > training, evals > sampling, data > models > layers > ops, audio > typing

Nothing is imported here, so that `import poolformer_jax` costs nothing and a program that
only needs the audio codecs never starts JAX.
"""

__version__ = "0.1.0"
