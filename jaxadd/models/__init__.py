"""Networks: architectures as frozen configs, and the pure functions that are built from them.

`Transformer`, `PairMLP` and `MLP` are the configs; `config.build(sizes)` returns a `Model`, and a `Network` is a
model with its parameters. `plain` is the forward pass to read, `fast` the one that runs, `weights` what may be tied,
and `structure` describes an architecture for analysis. No other package imports Flax.
"""

from jaxadd.models import fast as fast  # Registers the transformer's forward pass.
from jaxadd.models.hooks import Edit
from jaxadd.models.mlp import MLP
from jaxadd.models.model import Model, ModelConfig
from jaxadd.models.network import Network
from jaxadd.models.pair_mlp import PairMLP
from jaxadd.models.transformer import Transformer
from jaxadd.models.weights import Weights

__all__ = ["MLP", "Edit", "Model", "ModelConfig", "Network", "PairMLP", "Transformer", "Weights"]
