"""How the parameters of a Poolformer are split over the mesh's axis `fsdp`.

The matrices of dense layers, nearly all parameters, are split by their inputs. What is small is on
every device.
"""

from __future__ import annotations

from jax.sharding import PartitionSpec as P

from poolformer_jax.sharding import FSDP, Rules

PARAMETER_RULES: Rules = (
    # Of a stack of layers: [layers, inputs, outputs].
    (r"/layers/.*/(value|gate|(\w+_)?projection)/kernel$", P(None, FSDP)),
    (r"/layers/.*/temporal_convolution/kernel$", P(None, None, FSDP)),
    (r"head/projection/kernel$", P(FSDP)),
    # Block-diagonal gates, taps of pools, vectors, recurrences, embeddings.
    (r"/(input_gate|recurrence_gate|down_pool|up_pool)/kernel$", P()),
    (r"/(bias|scale|decay|theta)$", P()),
    (r"/(mamba|s4d?)/", P()),
    (r"(embedding|label)/", P()),
)
