"""Checks shapes and types of every call into the package while the tests run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("poolformer_jax", "beartype.beartype")
