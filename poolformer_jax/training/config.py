"""How to train: validated on construction."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from poolformer_jax.config_checks import (
    check_at_least,
    check_fraction,
    check_positive,
    check_seed,
    check_types,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that are trained in a way of their own.

    Attributes:
      pattern: Regular expression, searched for in a parameter's path, such as
        "backbone/inner/post/layers/mixer/s4/A_real".
      learning_rate: Instead of the recipe's; the schedule scales both alike. 0 leaves the
        parameters as they were drawn, None is the recipe's.
      weight_decay: Instead of the recipe's; None is the recipe's.

    Raises:
      ValueError: On construction, for a value that cannot work.
    """

    pattern: str
    learning_rate: float | None = None
    weight_decay: float | None = None

    def __post_init__(self):
        check_types(self)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"pattern {self.pattern!r} is not a regular expression: {error}"
            ) from None
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} {value} must be at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Recipe of a run; the defaults are the published SC09 recipe.

    Attributes:
      seed: Of the parameters and of dropout.
      init_from: Pretrained model that training starts from: "digits", which comes with the package,
        or a folder that `launch.export` wrote. None draws the parameters from the seed.
      num_steps: Steps of the whole run; raise it to train a finished run on.
      batch_size: Clips per step, over all devices and accumulation steps.
      grad_accum_steps: Parts that a batch is computed in, one after the other; the same gradient
        with less memory. None is one clip of each device at a time: a TPU then keeps most of what
        it computes on the chip.
      optimizer: `adamw`; `muon`, orthogonalised Nesterov momentum for the weight matrices of the
        layers and `adamw` for all else; or `sgd` with momentum.
      learning_rate: After the warm-up.
      warmup_steps: Steps of linear warm-up.
      schedule: What the rate does then: it is `constant`; falls to zero along half a `cosine` over
        the run; or is lowered at a `plateau`, when the validation loss no longer falls.
      plateau_patience: Evaluations without a lower loss that are put up with; the next one lowers
        the rate.
      plateau_factor: By which it is lowered.
      beta1: AdamW's decay of the first moment.
      beta2: AdamW's decay of the second moment.
      momentum: SGD's, of the sum of gradients, and Muon's, of their mean.
      weight_decay: On all parameters: AdamW's and Muon's, or times the parameters added to SGD's
        gradient.
      parameter_groups: Parameters with another learning rate or weight decay; of the groups that
        fit a parameter, the first counts.
      clip_norm: Global norm that gradients are scaled down to; None leaves them.
      skip_norm: Gradient norm from which an update is skipped, as it is if the norm or the loss is
        not finite; None skips only these.
      max_consecutive_skips: Skipped steps in a row after which the run stops.
      ema_decay: Of the averaged parameters, which evaluation and sampling use.
      label_dropout: Rate at which a clip's label is withheld, in a sequence model with classes;
        what classifier-free guidance needs.
      onset_weight: How much more an onset weighs in the loss than other samples. A label is worth
        at most log2(classes) bits of a clip's thousands, all of them where a few samples decide
        which word it will be; short trainings overlook them. 0 is the likelihood.
      onset_samples: The time in which the additional weight falls by a factor of e.
      onsets: Samples at which it begins: a clip's first one, and those where words part that begin
        alike.
      sampled_inputs: Up to which share a clip's samples are read as the model would draw them, and
        not as recorded, so that it learns to go on from its own mistakes. It takes another forward
        pass, and the bits that are printed in training are those after such inputs.
      log_every: Steps between progress lines.
      eval_every: Steps between evaluations of the whole validation split.
      eval_batch_size: Clips per evaluation step, over all devices.
      checkpoint_every: Steps between checkpoints; one follows every evaluation as well.
      checkpoint_minutes: After so many minutes without a checkpoint the next line of progress is
        followed by one, for machines that are taken away; None counts steps alone.

    Raises:
      ValueError: On construction, for a value that cannot work.

    Source: Gallo Fernandez 2025, arXiv:2510.02206.
    """

    seed: int = 0
    init_from: str | None = None
    num_steps: int = 486_500
    batch_size: int = 32
    grad_accum_steps: int | None = 1
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    warmup_steps: int = 1000
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    plateau_patience: int = 5
    plateau_factor: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    momentum: float = 0.9
    weight_decay: float = 1e-4
    parameter_groups: tuple[ParameterGroup, ...] = ()
    clip_norm: float | None = 200.0
    skip_norm: float | None = 1000.0
    max_consecutive_skips: int = 50
    ema_decay: float = 0.999
    label_dropout: float = 0.0
    onset_weight: float = 0.0
    onset_samples: int = 10
    onsets: tuple[int, ...] = (0,)
    sampled_inputs: float = 0.0
    log_every: int = 50
    eval_every: int = 973
    eval_batch_size: int = 32
    checkpoint_every: int = 973
    checkpoint_minutes: float | None = None

    def __post_init__(self):
        check_types(self)
        check_at_least(
            self,
            1,
            "num_steps",
            "batch_size",
            "max_consecutive_skips",
            "onset_samples",
            "log_every",
            "eval_every",
            "eval_batch_size",
            "checkpoint_every",
        )
        check_at_least(self, 0, "warmup_steps", "weight_decay", "plateau_patience", "onset_weight")
        check_positive(
            self, "learning_rate", "clip_norm", "skip_norm", "plateau_factor", "checkpoint_minutes"
        )
        check_fraction(
            self, "beta1", "beta2", "momentum", "ema_decay", "label_dropout", "plateau_factor"
        )
        if not self.onsets or min(self.onsets) < 0:
            raise ValueError(f"onsets {self.onsets} must be samples of a clip, 0 or more")
        if self.onsets != (0,) and not self.onset_weight:
            raise ValueError(f"onsets {self.onsets} need an onset_weight above 0")
        if not 0 <= self.sampled_inputs <= 1:
            raise ValueError(f"sampled_inputs {self.sampled_inputs} must be a share, 0 to 1")
        check_seed(self)
        if self.init_from == "":
            raise ValueError("init_from must name a pretrained model or be None, got ''")
        if self.grad_accum_steps is not None:
            check_at_least(self, 1, "grad_accum_steps")
            if self.batch_size % self.grad_accum_steps:
                raise ValueError(
                    f"batch_size {self.batch_size} is not a multiple of grad_accum_steps "
                    f"{self.grad_accum_steps}; a batch is computed in that many equal parts"
                )
