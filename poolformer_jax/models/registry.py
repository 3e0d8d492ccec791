"""The one table of sequence models: from `config.model.kind` to a configuration with `build()`."""

from __future__ import annotations

from collections.abc import Mapping

from poolformer_jax.models.config import SequenceModelConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.sashimi.config import SashimiConfig

MODELS: Mapping[str, type[SequenceModelConfig]] = {
    config.kind: config for config in (PoolformerConfig, SashimiConfig)
}
DEFAULT_MODEL: SequenceModelConfig = PoolformerConfig()
