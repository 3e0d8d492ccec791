"""How the parameters of SaShiMi are split over the mesh's axis `fsdp`.

The matrices of dense layers, nearly all parameters, are split by their inputs. What is small, or
belongs to the recurrences, is on every device.
"""

from __future__ import annotations

from jax.sharding import PartitionSpec as P

from poolformer_jax.sharding import FSDP, Rules

PARAMETER_RULES: Rules = (
    # Of a stack of layers: [layers, inputs, outputs].
    (r"/layers/.*/(expand|contract|(\w+_)?projection)/kernel$", P(None, FSDP)),
    (r"/(down_pool|up_pool)/kernel$", P(None, FSDP)),
    (r"head/projection/kernel$", P(FSDP)),
    # Vectors, recurrences, embeddings.
    (r"/layers/", P()),
    (r"/(bias|scale|length)$", P()),
    (r"(embedding|label)/", P()),
)
