"""The Poolformer as a sequence model: codes in, log-probabilities out."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import linen as nn

from poolformer_jax.layers.embedding import InputEmbedding, OutputHead
from poolformer_jax.models.autoregressive import Autoregressive, Network
from poolformer_jax.models.poolformer.backbone import BackboneState, make_block
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.sharding_rules import PARAMETER_RULES
from poolformer_jax.sharding import Rules


class PoolformerNetwork(Network):
    """Embedding, nested SkipBlocks, head.

    Source: Gallo Fernandez 2025, arXiv:2510.02206.
    """

    config: PoolformerConfig

    def setup(self):
        config = self.config
        self.embedding = InputEmbedding(
            config.num_codes, config.width, config.embedding, config.dtype
        )
        self.backbone = make_block(config)
        self.head = OutputHead(config.num_codes, config.platform)

    @nn.nowrap
    def init_backbone_state(self, rows: int) -> BackboneState:
        """Zeros."""
        return make_block(self.config).init_state(rows)


@dataclasses.dataclass(frozen=True)
class Poolformer(Autoregressive):
    """See `PoolformerConfig`.

    Source: Gallo Fernandez 2025, arXiv:2510.02206.
    """

    config: PoolformerConfig
    network_type: ClassVar[type[Network]] = PoolformerNetwork
    parameter_rules: ClassVar[Rules] = PARAMETER_RULES
