"""The architecture that a config beside or inside a file states, as fields of `Transformer`."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from jaxadd.errors import UserError
from jaxadd.interop import opaque
from jaxadd.models import Transformer

Fields = Mapping[str, Any]
"""Fields of `Transformer` by name, and the `EXTRA` ones."""

_CONFIGS = frozenset(
    {
        *(
            "config",
            "cfg",
            "args",
            "hparams",
            "hyper_parameters",
            "hyperparameters",
            "params",
            "architecture",
            "model",
        ),
        *("model_config", "model_cfg", "model_args", "model_kwargs", "arch", "settings", "transformer", "net"),
    }
)
_HINTS = get_type_hints(Transformer)
_OWN = {name: name for name in _HINTS if name not in ("weights", "dtype", "precision", "dropout")}
# The names that other libraries have for the fields.
_NAMES = _OWN | {
    **dict.fromkeys(("n_layers", "num_layers", "n_layer", "num_hidden_layers"), "layers"),
    **dict.fromkeys(("hidden_size", "n_embd"), "d_model"),
    **dict.fromkeys(("d_ff", "ffn_dim", "intermediate_size"), "d_mlp"),
    **dict.fromkeys(("n_heads", "num_heads", "n_head", "nheads", "num_attention_heads"), "heads"),
    **dict.fromkeys(("n_kv_heads", "n_key_value_heads", "num_key_value_heads"), "kv_heads"),
    **dict.fromkeys(("head_dim", "d_k"), "d_head"),
    **dict.fromkeys(("act_fn", "act_type", "act", "hidden_act", "activation_function"), "activation"),
    **dict.fromkeys(("normalization_type", "norm_type", "normalization"), "norm"),
    **dict.fromkeys(("eps", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"), "norm_epsilon"),
    **dict.fromkeys(("positional_embedding_type", "position_embedding_type", "pos_type"), "positions"),
    **dict.fromkeys(("rotary_base", "rope_base"), "rope_theta"),
    **dict.fromkeys(("rotary_adjacent_pairs", "rope_interleaved"), "rope_pairs"),
    **dict.fromkeys(("causal", "is_causal"), "attention"),
    **{"attention_dir": "attention", "attn_coeff": "attention_mix", "use_qk_norm": "qk_norm"},
    **{"gated_mlp": "mlp", "attn_bias": "attention_bias"},
}
EXTRA = ("tie_kv", "tie_qo", "tie_word_embeddings", "attn_coeff")
"""What a config states that is no field of `Transformer` and decides how a file is read; each is kept by its name."""
_SIZES = {
    **dict.fromkeys(("n_ctx", "n_positions", "max_position_embeddings"), "positions"),
    **dict.fromkeys(("d_vocab", "vocab_size"), "tokens"),
    "d_vocab_out": "classes",
}
_WORDS = {
    "activation": {"swish": "silu", "quad": "square", "x2": "square", "linear": "identity"},
    "norm": {"ln": "layernorm", "layer_norm": "layernorm", "rms": "rmsnorm", "rms_norm": "rmsnorm", "": "none"},
    "positions": {"standard": "learned", "absolute": "learned", "rotary": "rope", "sin": "sinusoidal"},
    "attention": {"casual": "causal"},  # A misspelling in the configs of Zhong et al.
}
_FOLDED = {"lnpre": "layernorm", "rmspre": "rmsnorm"}  # Norms of TransformerLens without weights.
# What TransformerLens, Hugging Face and AdderBoard can state and this model does not have, with the harmless values.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    **{"parallel_attn_mlp": (False,), "use_attn_scale": (True,), "scale_attn_by_inverse_layer_idx": (False,)},
    **{"attn_scores_soft_cap": (0, -1, -1.0), "output_logits_soft_cap": (0, -1, -1.0), "rope_scaling": (None,)},
    **{"use_NTK_by_parts_rope": (False,), "use_local_attn": (False,), "num_experts": (None, 0)},
    **{"use_linear": (False,), "partial_rotary_factor": (1, 1.0), "use_sliding_window": (False,)},
    **{"attn_logit_softcapping": (None,), "final_logit_softcapping": (None,), "clip_qkv": (None,)},
    **{"post_embedding_ln": (False,)},
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logit_scale", "logits_scaling"), (1, 1.0)),
}
_FOREIGN = ("cohere", "gemma", "olmo2")  # Beginnings of model_type; they scale embeddings, or have norms elsewhere.
# What is stated in other words and follows from the architecture, if it is what this model computes.
_IMPLIED: dict[str, Callable[[Transformer], float]] = {
    "rotary_dim": lambda config: config.head_width,
    "attn_scale": lambda config: math.sqrt(config.head_width),
    "query_pre_attn_scalar": lambda config: config.head_width,
}
_WHOLE = frozenset(name for name, hint in _HINTS.items() if int in (hint, *get_args(hint)))


def check(given: Fields) -> dict[str, Any]:
    """Return fields that a caller states, checked; raises UserError for an unknown name or an impossible value."""
    result = {}
    for name, value in given.items():
        if name not in _OWN:
            raise UserError(f"fields holds {name!r}; a field of the architecture is one of {', '.join(_OWN)}")
        found = _value(name, name, value, "the fields state")
        if not found:
            raise UserError(f"the field {name} cannot be {value!r}")
        result[name] = found[name]
    return result


def stated(content: Any, config: Fields) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields that the configs in and beside a file state; those in the file win.

    Args:
      content: of the file, as `opaque.plain` returns it.
      config: the content of the JSON file beside it.

    Returns:
      the fields, and a note for each value that is not understood, such as a width of "wide".

    Raises:
      UserError: a config states what this model does not have, such as an activation function.
    """
    found: dict[str, Any] = {}
    notes: dict[str, None] = {}  # A set in order.
    for source in (config, content):
        # The nearest to the root is read last, and wins.
        nested = [(path, value) for path, value in opaque.walk(source) if not path or path[-1].lower() in _CONFIGS]
        for _, value in sorted(nested, key=lambda item: -len(item[0])):
            fields, ignored = _of(value)
            found |= fields
            notes |= dict.fromkeys(ignored)
    return found, tuple(notes)


def _of(config: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    ignored = []
    for name, value in config.items():
        if not isinstance(name, str):
            continue
        if name == "layer_types" and isinstance(value, list) and set(map(str, value)) - {"full_attention"}:
            raise UserError(f"its config states layer_types {str(value)[:60]}, and this model has full_attention")
        if not isinstance(value, bool | int | float | str | dict | None):
            ignored += [_ignored(name, value)] if name in _NAMES else []
            continue
        if name in _UNSUPPORTED and value not in (None, *_UNSUPPORTED[name]):
            raise UserError(f"its config states {name} {str(value)[:40]}, which this model does not have")
        if name == "model_type" and str(value).startswith(_FOREIGN):
            raise UserError(
                f"its config states model_type {str(value)[:40]}, whose networks this model does not describe"
            )
        if name == "sliding_window" and value and config.get("use_sliding_window") is not False:
            raise UserError(f"its config states sliding_window {str(value)[:40]}, which this model does not have")
        if name == "final_rms" and value and str(config.get("normalization_type", "")).upper().startswith("LN"):
            raise UserError(
                "its config states final_rms beside LayerNorm, and all norms of this model are of one kind"
            )
        if name == "attn_only" and value is True:
            found["d_mlp"] = 0
        if name == "rope_parameters" and isinstance(value, dict):  # Of newer versions of Hugging Face's library.
            if value.get("rope_type", "default") != "default":
                raise UserError(
                    f"its config states rope_type {str(value['rope_type'])[:40]}, and the model has default"
                )
            found |= _of({"rope_theta": value.get("rope_theta")})[0]
        if (name in _IMPLIED or name in _SIZES) and isinstance(value, int | float) and value > 0:
            found[name] = value
        if name in EXTRA and isinstance(value, bool | int | float):
            found[name] = value
        elif name in EXTRA and value is not None:
            ignored.append(_ignored(name, value))
        if name in _NAMES and not isinstance(value, dict):
            read = _value(_NAMES[name], name, value, "its config states")
            found |= read or {}
            if read is None:
                ignored.append(_ignored(name, value))
    return found, ignored


def _ignored(name: str, value: Any) -> str:
    field = _NAMES.get(name, name)
    return f"its config states {name} {repr(value)[:40]}, which is not a value of {field} and is ignored"


def _value(field: str, name: str, value: Any, source: str) -> dict[str, Any] | None:
    """Return the fields that one entry of a config states.

    Returns:
      fields by name; empty where the entry leaves the choice to other fields, such as None or a width of 0; None
      where the value is not understood.

    Raises:
      UserError: `source`, such as "its config states", names a function or kind of positions that there is not.
    """
    if field == "norm" and value is None and name == "normalization_type":
        return {"norm": "none"}
    if value is None:
        return {}
    if field in _WHOLE:
        number = _number(value)
        if number is None or not 0 <= number < 2**31 or number != int(number):
            return None
        return {} if number == 0 and field != "d_mlp" else {field: int(number)}  # 0: another field decides.
    if isinstance(value, bool) and field in ("rope_pairs", "attention", "mlp"):
        first, second = {"rope_pairs": ("interleaved", "half"), "mlp": ("gated", "plain")}.get(
            field, ("causal", "bidirectional")
        )
        return {field: first if value else second}
    if _HINTS[field] is bool:
        return {field: bool(value)} if isinstance(value, bool | int) and value in (0, 1) else None
    if _HINTS[field] is float:
        number = _number(value)
        return None if number is None else {field: number}
    if not isinstance(value, str):
        return None
    word = value.lower()
    if field == "norm" and word in _FOLDED:
        return {"norm": _FOLDED[word], "norm_weight": False, "norm_bias": False}
    word = _WORDS.get(field, {}).get(word, word)
    choices = get_args(_HINTS[field])
    if word in choices:
        return {field: word}
    # Some names of fields are used for other things as well, such as {"attention": "flash"}.
    if name != field or field not in ("norm", "positions", "attention", "mlp"):
        raise UserError(f"{source} {name} {value[:40]!r}, and the model has {', '.join(choices)}")
    return None


def _number(value: Any) -> float | None:
    """Return a number of a config, which some write as text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def unshown(config: Transformer) -> dict[str, Any]:
    """Return the fields with an effect that neither names nor shapes of tensors show."""
    matters = {
        "activation": config.d_mlp > 0,
        "norm_epsilon": config.norm != "none" or config.qk_norm,
        "rope_theta": config.positions == "rope",
    }
    return {name: getattr(config, name) for name, does in matters.items() if does}


def assumption(values: Fields, known: Fields, source: str) -> tuple[str, ...]:
    """Return a note on those of some fields that are not known; none where all are.

    Args:
      values: the fields, such as `unshown` returns.
      known: fields that are stated or given.
      source: whose values were assumed, such as "TransformerLens".
    """
    spelled = (f"{value:g}" if isinstance(value, float) else str(value) for value in values.values())
    words = [f"{name} {text}" for name, text in zip(values, spelled, strict=True) if name not in known]
    return (f"not stated, and assumed as in {source}: {', '.join(words)}",) if words else ()


def size_notes(stated: Fields, **sizes: int | None) -> tuple[str, ...]:
    """Return a line on each size that a config states and the tensors contradict.

    Args:
      stated: fields, as `stated` returns them.
      sizes: numbers of `tokens`, `classes` and `positions` that the tensors have; None where there is no limit.
    """
    return tuple(
        f"its config states {name} {stated[name]}, and its tensors are for {sizes[size]} {size}; the config may be "
        "of another network"
        for name, size in _SIZES.items()
        if name in stated and sizes[size] not in (None, stated[name])
    )


def config_of(*, assumed: Fields, stated: Fields, found: Fields, given: Fields) -> Transformer:
    """Return the architecture with the fields that are known, the EXTRA ones left out.

    Args:
      assumed: fields of networks of this kind where nothing says otherwise.
      stated: those that the configs in and beside a file state.
      found: those that names and shapes of the tensors show.
      given: those that the caller states, which win.

    Raises:
      UserError: fields do not fit each other, or a config states what names and shapes contradict. Such a config may
        be of another network, and what it states beyond names and shapes would be wrong too.
    """
    known = {**assumed, **stated, **found, **given}
    config = Transformer(**{name: value for name, value in known.items() if name in _OWN})
    harmless = dataclasses.asdict(Transformer())
    for name, purpose in config.unused_fields().items():
        if given.get(name) not in (None, False, harmless.get(name)):
            raise UserError(f"the field {name} has no effect in this network: it is for {purpose}; leave it out")
    actual = dataclasses.asdict(config) | {"d_head": config.head_width}
    for name, implied in _IMPLIED.items():
        if name not in given and not math.isclose(stated.get(name, implied(config)), implied(config), rel_tol=1e-3):
            raise UserError(f"its config states {name} {stated[name]:g}, and this model has {implied(config):g}")
    for name, value in stated.items():
        # Matrices are read for every head, however few keys and values the file holds.
        if name in given or name not in _OWN or name == "kv_heads" or value in (None, actual[name]):
            continue
        raise UserError(
            f"its config states {name} {value}, and its tensors are those of a network with {name} {actual[name]}; "
            f"the config may be of another network, or state the field {name} yourself"
        )
    return config
