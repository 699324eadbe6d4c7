"""Networks: architectures as frozen configs, and the pure functions that they are built into.

`Transformer` and `MLP` are the configs; `config.build(sizes)` returns a `Model`, and `Network` is a model with its
parameters. `plain` is the forward pass to read, `fast` the one that runs, and `structure` answers what analysis asks
of an architecture. The only package that imports Flax.
"""

from jaxadd.models import fast as fast  # Registers the transformer's forward pass.
from jaxadd.models.hooks import Edit
from jaxadd.models.mlp import MLP
from jaxadd.models.model import Model, ModelConfig
from jaxadd.models.network import Network
from jaxadd.models.transformer import Transformer

__all__ = ["MLP", "Edit", "Model", "ModelConfig", "Network", "Transformer"]
