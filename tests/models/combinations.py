"""Random architectures, small enough to compute both ways."""

from hypothesis import strategies as st

from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.models.weights import Weights


@st.composite
def transformers(draw, attention=("causal", "bidirectional"), **fixed):
    """Draw a transformer config of width 8; every field may take every value, together with any of the others."""
    choose = lambda *values: draw(st.sampled_from(values))
    heads = choose(1, 2, 4)
    d_mlp = choose(0, 6)
    fields = {
        "layers": choose(1, 2),
        "d_model": 8,
        "heads": heads,
        "d_head": choose(None, 2, 4) if heads < 4 else choose(None, 2),
        "kv_heads": choose(None, 1, heads),
        "d_mlp": d_mlp,
        "mlp": choose("plain", "gated"),
        "activation": choose("relu", "gelu", "silu", "square", "abs", "sin", "identity"),
        "norm": choose("none", "layernorm", "rmsnorm"),
        "norm_where": choose("pre", "post", "both"),
        "final_norm": choose(True, False),
        "norm_weight": choose(True, False),
        "norm_bias": choose(True, False),
        "norm_epsilon": choose(1e-6, 1e-2),
        "qk_norm": choose(True, False),
        "positions": choose("learned", "sinusoidal", "rope", "alibi", "none"),
        "position_index": choose("sequence", "place"),
        "rope_theta": choose(3.0, 10_000.0),
        "rope_scale": choose(1.0, 0.5),
        "rope_pairs": choose("half", "interleaved"),
        "attention": choose(*attention),
        "attention_mix": choose(1.0, 0.5, 0.0),
        "attention_bias": choose(True, False),
        "mlp_bias": choose(True, False),
        "unembed_bias": choose(True, False),
    }
    fields |= fixed
    ties = {
        "embed": choose("free", "arc"),
        "unembed": choose("free", "embed"),
        "value": choose("free", "key"),
        "output": choose("free", "query"),
        "layers": choose("free", "shared"),
        "attention_rank": choose(0, 1),
        "mlp_rank": choose(0, 2) if d_mlp else 0,
    }

    def fits(**more):
        try:
            Transformer(**fields, weights=Weights(**ties, **more))
        except UserError:
            return False
        return True

    for name, values in {
        "scores": ("free", "positions", "distance"),
        "value_rank": (0, 1),
        "norms": ("free", "shared", "final"),
    }.items():
        ties[name] = choose(*(value for value in values if fits(**{name: value})))
    return Transformer(**fields, weights=Weights(**ties))
