"""The configuration of SaShiMi; nothing here loads JAX."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

from poolformer_jax.config_checks import check_at_least, check_fraction
from poolformer_jax.layers.config import NormKind
from poolformer_jax.layers.mixer_config import MixerConfig, S4Config
from poolformer_jax.models.config import SequenceModelConfig, check_stages

if TYPE_CHECKING:
    from poolformer_jax.models.sashimi.model import Sashimi


@dataclasses.dataclass(frozen=True, kw_only=True)
class SashimiConfig(SequenceModelConfig):
    """SaShiMi, and what has its backbone; the defaults are the published U-Net with S4.

    Fields of codes and classes are described in `SequenceModelConfig`, those of execution in
    `ExecutionConfig`.

    Attributes:
      width: Model width d at the outermost stage.
      width_growth: Factor by which d grows at each pool.
      pool_factors: f of each pool, outermost first.
      layers: Layers of each stage, outermost first: one more than pool factors. A layer is a
        residual mixer and a residual MLP.
      unet: Whether a stage has its layers before the pool too, whose inputs are then added to the
        outputs of those after it.
      mixer: What mixes time.
      mlp_expansion: Width inside the MLPs, in units of d; 0 leaves them out.
      center_mixer: What mixes time at the centre; None is `mixer`.
      center_mlp_expansion: The same for the MLPs there; None is `mlp_expansion`.
      norm: Normalisation in front of each branch.
      pool_weight_norm: Whether the pools' weights are direction times length (weight
        normalisation).
      dropout: Rate at the end of each residual branch, in training.

    Raises:
      ValueError: On construction, if the values cannot work together.

    Source: Goel et al. 2022, arXiv:2202.09729, and its released code; Gu & Dao 2023,
    arXiv:2312.00752, section 4.4 (with Mamba).
    """

    kind: ClassVar[str] = "sashimi"
    width: int = 64
    width_growth: int = 2
    pool_factors: tuple[int, ...] = (4, 4)
    layers: tuple[int, ...] = (8, 8, 8)
    unet: bool = True
    mixer: MixerConfig = S4Config()
    mlp_expansion: int = 2
    center_mixer: MixerConfig | None = None
    center_mlp_expansion: int | None = None
    norm: NormKind = "scalar_norm"
    pool_weight_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "width", "width_growth")
        check_at_least(self, 0, "mlp_expansion")
        if self.center_mlp_expansion is not None:
            check_at_least(self, 0, "center_mlp_expansion")
        check_fraction(self, "dropout")
        check_stages(self.pool_factors, self.layers, "stage")
        for stage in range(len(self.layers)):
            self.mixer_of(stage).check_width(self.width_of(stage))

    @property
    def chunk_multiple(self) -> int:
        """The total pooling factor: samples per step of the centre."""
        return math.prod(self.pool_factors)

    def width_of(self, stage: int) -> int:
        """Model width d of a stage."""
        return self.width * self.width_growth**stage

    def mixer_of(self, stage: int) -> MixerConfig:
        """What mixes time at a stage, with its widths there."""
        center = stage == len(self.pool_factors)
        mixer = (self.center_mixer if center else None) or self.mixer
        return mixer.grown(self.width_growth**stage)

    def mlp_expansion_of(self, stage: int) -> int:
        """Width inside the MLPs of a stage, in units of its d."""
        if stage == len(self.pool_factors) and self.center_mlp_expansion is not None:
            return self.center_mlp_expansion
        return self.mlp_expansion

    @property
    def flops_per_sample(self) -> float:
        """Of each stage at its rate."""
        flops, rate = 2.0 * self.width * self.num_codes, 1.0
        for stage, layers in enumerate(self.layers):
            width, factors = self.width_of(stage), self.pool_factors[stage:]
            layer = self.mixer_of(stage).flops_per_step(width)
            layer += 4 * width**2 * self.mlp_expansion_of(stage)
            flops += rate * (1 + (self.unet and bool(factors))) * layers * layer
            if factors:
                # Each step meets one tap of either pool.
                flops += rate * 4 * width**2 * self.width_growth
                rate /= factors[0]
        return flops

    def build(self) -> Sashimi:
        """Makes the model."""
        from poolformer_jax.models.sashimi.model import Sashimi

        return Sashimi(self)
