"""SaShiMi as a sequence model: codes in, log-probabilities out."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from poolformer_jax.layers.embedding import OutputHead
from poolformer_jax.layers.initialization import torch_uniform
from poolformer_jax.models.autoregressive import Autoregressive, Network
from poolformer_jax.models.sashimi.backbone import EPSILON, make_stage
from poolformer_jax.models.sashimi.config import SashimiConfig
from poolformer_jax.models.sashimi.pooling import LENGTH_AXES, kernel_length
from poolformer_jax.models.sashimi.sharding_rules import PARAMETER_RULES
from poolformer_jax.sharding import Rules


class SashimiNetwork(Network):
    """Embedding, backbone, head.

    Source: Goel et al. 2022, arXiv:2202.09729, and its released code.
    """

    config: SashimiConfig

    def setup(self):
        config = self.config
        self.embedding = nn.Embed(
            config.num_codes,
            config.width,
            dtype=config.dtype,
            embedding_init=nn.initializers.normal(1.0),
        )
        self.backbone = make_stage(config)
        draw = torch_uniform(config.width)
        self.head = OutputHead(config.num_codes, config.platform, epsilon=EPSILON, draw=draw)

    @nn.nowrap
    def init_backbone_state(self, rows: int) -> Any:
        """Zeros."""
        return make_stage(self.config).init_state(rows)


@dataclasses.dataclass(frozen=True)
class Sashimi(Autoregressive):
    """See `SashimiConfig`.

    Source: Goel et al. 2022, arXiv:2202.09729, and its released code.
    """

    config: SashimiConfig
    network_type: ClassVar[type[Network]] = SashimiNetwork
    parameter_rules: ClassVar[Rules] = PARAMETER_RULES

    def init_params(self, key: Array) -> dict:
        """Draws the parameters; with weight normalisation, kernels begin as they are drawn."""
        params = super().init_params(key)
        if not self.config.pool_weight_norm:
            return params
        flat = flatten_dict(params)
        for *pool, name in flat:
            if name == "length":
                axes = LENGTH_AXES[pool[-1]]
                flat[*pool, name] = kernel_length(flat[*pool, "kernel"], axes)
        return unflatten_dict(flat)
