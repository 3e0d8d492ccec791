"""Flax Linen modules with explicit state: mixers, pooling, residual blocks, embeddings.

Every module that remembers takes its state and returns the next one; `init_state` functions make
the first. Parameters are float32; modules know no mesh, no path and no data set.
"""
