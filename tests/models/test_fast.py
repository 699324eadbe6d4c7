"""The transformer equals its plain transcription, however little of it is computed."""

import functools
import math
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

from jaxadd.errors import UserError
from jaxadd.models import MLP, Transformer, fast
from jaxadd.runs.checkpoints import flatten
from jaxadd.tasks import Addition, Modular
from jaxadd.types import Sizes

pytestmark = pytest.mark.jax_api

SMALL = Sizes(length=5, classes=6, vocabulary=7, read=(4,))


def tokens(sizes, batch=9, seed=1):
    rows = np.random.default_rng(seed).integers(sizes.vocabulary, size=(batch, sizes.length), dtype=np.int32)
    return jnp.asarray(rows)


@functools.cache
def network(config):
    """Return a model of the small task and parameters that all take part."""
    model = config.build(SMALL)
    return model, drawn(model)


def transcription(config, params, tokens):
    """Compute logits at every position the plain way, in float64 NumPy."""
    w = {name: leaf.astype(np.float64) for name, leaf in flatten(params).items()}
    erf = np.vectorize(math.erf)
    activation = {"relu": lambda x: np.maximum(x, 0), "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2}

    def norm(x, name):
        if config.norm == "none":
            return x
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) * w[f"{name}.w"] + w[f"{name}.b"]

    tokens = np.asarray(tokens)
    length = tokens.shape[1]
    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"]
    for i in range(config.layers):
        p = f"blocks.{i}."
        y = norm(x, f"{p}ln1")
        q, k, v = (np.einsum("btd,hdk->bhtk", y, w[f"{p}attn.W_{name}"]) for name in "QKV")
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(config.head_width)
        if config.attention == "causal":
            scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern /= pattern.sum(-1, keepdims=True)
        x = x + np.einsum("bhtk,hkd->btd", pattern @ v, w[f"{p}attn.W_O"])
        if config.d_mlp:
            y = norm(x, f"{p}ln2") @ w[f"{p}mlp.W_in"] + w[f"{p}mlp.b_in"]
            x = x + activation[config.activation](y) @ w[f"{p}mlp.W_out"] + w[f"{p}mlp.b_out"]
    return norm(x, "ln_final") @ w["unembed.W_U"]


CONFIGS = [
    Transformer(d_model=16, heads=2, d_mlp=24),
    Transformer(d_model=16, heads=4, d_mlp=24, layers=2, activation="gelu"),
    Transformer(d_model=16, heads=1, d_mlp=0, layers=2),
    Transformer(d_model=16, heads=2, d_mlp=24, layers=3, norm="layernorm", activation="gelu"),
]
BOTH_WAYS = [replace(config, attention="bidirectional") for config in (CONFIGS[0], CONFIGS[3])]


def short(config):
    return f"L{config.layers}F{config.d_mlp}{config.norm}-{config.attention}"


@pytest.mark.parametrize("config", CONFIGS + BOTH_WAYS, ids=short)
@pytest.mark.parametrize("batch", [3, 40])  # Scores are looked up in a table where V² ≤ 4 B.
def test_logits_equal_the_plain_transcription(config, batch):
    model, params = network(config)
    x, reads = tokens(SMALL, batch), ((4,), (1, 3, 4), (0, 1, 2, 3, 4))
    computed = jax.jit(lambda params: [model.apply(params, x, read=read) for read in reads])(params)
    expected = transcription(config, params, x)
    for read, (logits, seen) in zip(reads, computed, strict=True):
        assert not seen
        chex.assert_shape(logits, (batch, len(read), SMALL.classes))
        np.testing.assert_allclose(logits, expected[:, list(read)], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("config", CONFIGS + BOTH_WAYS[:1], ids=short)
def test_fast_and_plain_path_have_the_same_gradients(config):
    """Touching the embeddings makes the model compute every example by itself."""
    (model, params), x = network(config), tokens(SMALL, 40)

    def loss(params, edits):
        return jnp.sum(jnp.sin(model.apply(params, x, edits=edits)[0]))

    edited = {}, {"hook_embed": lambda x: x}
    fast, plain = jax.jit(lambda params: [jax.grad(loss)(params, edits) for edits in edited])(params)
    chex.assert_trees_all_close(fast, plain, rtol=1e-3, atol=1e-4)


def test_an_accelerator_looks_up_the_same_and_multiplies_for_the_gradient(monkeypatch):
    """Logits are the same bits; the gradient, and its derivative, agree with those of a scatter."""
    model, params = network(Transformer(d_model=8, heads=2, d_mlp=12))
    x, direction = tokens(SMALL), {**params, "embed": {"W_E": jnp.sin(40 * params["embed"]["W_E"])}}

    def computed():
        def logits(w):
            return model.apply(w, x)[0]

        gradient = jax.grad(lambda w: jnp.mean(logits(w) ** 2))
        together = jax.jit(lambda w: (logits(w), *jax.jvp(gradient, (w,), (direction,))))
        return str(together.trace(params).jaxpr).count("scatter-add"), *together(params)

    scatters, logits, *want = computed()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    fewer, same, *found = computed()
    assert fewer < scatters
    np.testing.assert_array_equal(same, logits)
    chex.assert_trees_all_close(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=short)
def test_causality_by_gradient(config):
    """No logit depends on a later token: its gradient with respect to a later embedding is exactly zero."""
    (model, params), x = network(config), tokens(SMALL, 2)
    everywhere = tuple(range(SMALL.length))

    def logits(shift):
        return model.apply(params, x, edits={"hook_embed": lambda e: e + shift[None]}, read=everywhere)[0].sum((0, 2))

    influence = np.abs(jax.jit(jax.jacobian(logits))(np.zeros((SMALL.length, config.d_model), np.float32))).sum(-1)
    assert (influence[np.tri(SMALL.length, dtype=bool)] > 0).all()
    assert (influence[~np.tri(SMALL.length, dtype=bool)] == 0).all()


def test_bidirectional_attention_sees_everything():
    """Every logit depends on every token, and with causal attention the first position's do not."""
    everywhere = tuple(range(SMALL.length))
    for config, first_sees in ((BOTH_WAYS[0], everywhere), (CONFIGS[0], (0,))):
        (model, params), x = network(config), tokens(SMALL, 2)
        logits = jax.jit(lambda x, model=model, params=params: model.apply(params, x, read=everywhere)[0])
        before = logits(x)
        for t in everywhere:
            changed = logits((x + (np.arange(SMALL.length) == t)[None]) % SMALL.vocabulary)
            assert (not np.array_equal(changed[:, 0], before[:, 0])) == (t in first_sees)
            assert not np.allclose(changed[:, -1], before[:, -1], atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS + BOTH_WAYS, ids=short)
def test_positions_to_read_may_be_traced(config):
    (model, params), x = network(config), tokens(SMALL)
    traced = jax.jit(lambda read: model.apply(params, x, read=read)[0])
    expected = transcription(config, params, x)
    for read in ((1, 3), (4, 0), (2, 2)):
        np.testing.assert_allclose(traced(np.array(read, np.int32)), expected[:, read], rtol=1e-4, atol=1e-5)
    assert traced._cache_size() == 1
    np.testing.assert_allclose(traced(np.arange(SMALL.length)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [*CONFIGS[:2], BOTH_WAYS[0]], ids=short)
def test_few_classes_read_out_early_give_the_same_logits_and_gradients(config, monkeypatch):
    """W_out W_U is formed first, unless what W_out gives is to be seen or replaced."""
    (model, params), x = network(config), tokens(SMALL, 40)
    names = [f"blocks.{config.layers - 1}.{tapped}" for tapped in ("hook_mlp_out", "hook_resid_post")]

    def loss(params, names=(), edits=None):
        logits, _ = model.apply(params, x, names, edits, read=(1, 4))
        return jnp.sum(jnp.sin(logits)), logits

    def graded(*taps):
        return jax.jit(lambda params: [jax.value_and_grad(loss, has_aux=True)(params, *tap) for tap in taps])(params)

    seen, replaced = ([((name,),) for name in names], [((), {name: lambda v: v}) for name in names])
    ((_, first), gradient), *late = graded((), *seen, *replaced)
    monkeypatch.setattr(fast, "_reads_out_early", lambda *_: False)
    late += graded(())
    for (_, logits), other in late:
        np.testing.assert_allclose(logits, first, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(other, gradient, rtol=1e-3, atol=1e-4)


def test_early_readout_saves_products():
    """Of the readout: F C + D C a row in place of F D + D C; and many classes take the long way."""

    def products(sizes, names=()):
        model = config.build(sizes)
        jaxpr = jax.make_jaxpr(lambda params, x: model.apply(params, x, names))(model.shapes(), tokens(sizes, 40))
        return sorted(
            equation.outvars[0].aval.shape for equation in jaxpr.eqns if equation.primitive.name == "dot_general"
        )

    config = CONFIGS[0]
    assert (40, 16) in products(SMALL, ["blocks.0.hook_mlp_out"])
    assert products(SMALL) != products(SMALL, ["blocks.0.hook_mlp_out"])
    assert products(SMALL).count((40, SMALL.classes)) == 2
    many = replace(SMALL, classes=9)
    assert products(many) == products(many, ["blocks.0.hook_mlp_out"])


@pytest.mark.parametrize("config", CONFIGS[1:], ids=short)  # Deeper ones have every name of the first.
def test_every_named_activation_can_be_seen_and_replaced(config):
    """Not compiled as a whole: there are hundreds of such programs, of the same operations."""
    (model, params), x = network(config), tokens(SMALL)

    plain = np.asarray(model.apply(params, x)[0])
    logits, seen = jax.device_get(model.apply(params, x, names=model.names))
    assert set(seen) == set(model.names)
    np.testing.assert_allclose(logits, plain, rtol=1e-4, atol=1e-5)
    half = len(x) // 2  # Of these examples an activation is replaced by itself, of the others by something else.
    for name, value in seen.items():
        assert len(value) == len(x)
        edit = functools.partial(replaced, value, half)
        found, again = jax.device_get(model.apply(params, x, names=[name], edits={name: edit}))
        wanted = np.concatenate([value[:half], np.sin(3 * value[half:])])
        np.testing.assert_allclose(again[name], wanted, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found[:half], plain[:half], rtol=1e-4, atol=1e-5)
        assert not np.allclose(found[half:], plain[half:], atol=1e-4), name


def replaced(value, half, seen):
    """Replace an activation by a value for the first examples, and by a function of itself for the others."""
    return jnp.asarray(np.concatenate([value[:half], np.sin(3 * np.asarray(seen)[half:])]))


def test_activations_are_what_their_names_say():
    config = CONFIGS[1]
    (model, params), x = network(config), tokens(SMALL)
    _, a = jax.jit(lambda params: model.apply(params, x, names=model.names, read=tuple(range(5))))(params)
    a = jax.device_get(a)
    b = "blocks.1."
    chex.assert_shape(a[f"{b}attn.hook_pattern"], (9, 4, 5, 5))
    chex.assert_shape(a[f"{b}attn.hook_z"], (9, 5, 4, 4))
    np.testing.assert_allclose(a[f"{b}attn.hook_pattern"].sum(-1), 1, rtol=1e-5)
    assert (a[f"{b}attn.hook_pattern"][..., ~np.tri(5, dtype=bool)] == 0).all()
    z = np.einsum("bhqt,bthk->bqhk", a[f"{b}attn.hook_pattern"], a[f"{b}attn.hook_v"])
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    close(a[f"{b}attn.hook_z"], z)
    close(a[f"{b}hook_resid_mid"], a[f"{b}hook_resid_pre"] + a[f"{b}hook_attn_out"])
    close(a[f"{b}hook_resid_post"], a[f"{b}hook_resid_mid"] + a[f"{b}hook_mlp_out"])
    close(a["blocks.0.hook_resid_pre"], a["hook_embed"] + a["hook_pos_embed"])
    close(a["blocks.1.hook_resid_pre"], a["blocks.0.hook_resid_post"])
    close(a[f"{b}hook_attn_out"], np.einsum("bqhk,hkd->bqd", z, params["blocks.1"]["attn"]["W_O"]))


def test_unknown_name_and_wrong_edit():
    (model, params), x = network(CONFIGS[0]), tokens(SMALL)
    with pytest.raises(ValueError, match=r"blocks\.7\.hook_resid_pre; there are hook_embed"):
        model.apply(params, x, names=["blocks.7.hook_resid_pre"])
    with pytest.raises(UserError, match=r"edit of blocks\.0\.mlp\.hook_post should return the shape"):
        model.apply(params, x, edits={"blocks.0.mlp.hook_post": lambda v: v[:1]})
    with pytest.raises(AssertionError):
        model.apply(params, x[:, :3])


def test_mainline_parameters_and_init():
    model = Transformer().build(Modular().sizes)
    params = flatten(jax.device_get(jax.jit(model.init)(jax.random.key(0))))
    assert sum(w.size for w in params.values()) == 226_816
    # 1781 squares of N(0, 1) / √fan are expected; the sum of 226,816 of them deviates by some 6.
    assert sum(float((w**2).sum()) for w in params.values()) == pytest.approx(1781, abs=30)
    deviation = {name: w.std() for name, w in params.items() if "b_" not in name}
    for name, value in deviation.items():
        assert value == pytest.approx(1 / math.sqrt(114 if name == "unembed.W_U" else 128), rel=0.1), name
    assert not params["blocks.0.mlp.b_in"].any()


def test_bfloat16_is_close_and_gives_float32_logits():
    config = CONFIGS[0]
    (_, params), x = network(config), tokens(SMALL)
    half = replace(config, dtype="bfloat16").build(SMALL)
    logits, seen = jax.jit(lambda params: half.apply(params, x, names=["blocks.0.mlp.hook_post"]))(params)
    assert logits.dtype == jnp.float32
    assert seen["blocks.0.mlp.hook_post"].dtype == jnp.bfloat16
    np.testing.assert_allclose(logits, transcription(config, params, x)[:, 4:], atol=0.2)


def test_mlp_classifier():
    sizes = Sizes(length=6, classes=3)
    model = MLP(hidden=(8, 4)).build(sizes)
    params, x = drawn(model), np.random.default_rng(5).standard_normal((7, 6), np.float32)
    logits, seen = jax.jit(lambda params: model.apply(params, x, names=model.names))(params)
    h = x
    for name in ("layers.0", "layers.1"):
        h = np.maximum(h @ params[name]["W"] + params[name]["b"][None], 0)
        np.testing.assert_allclose(seen[f"{name}.hook_post"], h, rtol=1e-4, atol=1e-5)
    want = (h @ params["readout"]["W"] + params["readout"]["b"][None])[:, None]
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Transformer(heads=3), "divisible by heads"),
        (lambda: Transformer(layers=0), "layers must be at least 1"),
        (lambda: Transformer(activation="tanh"), "relu, gelu"),
        (lambda: Transformer(dtype="float16"), "dtype must be one of float32, bfloat16"),
        (lambda: MLP(precision="low"), "precision must be one of highest"),
        (lambda: MLP(hidden=(0,)), "at least one neuron"),
        (lambda: Transformer().build(Sizes(length=4, classes=2)), "use an MLP"),
        (lambda: MLP().build(SMALL), "use a Transformer"),
        (lambda: Transformer(attention="both"), "attention must be one of causal, bidirectional, got 'both'"),
        (lambda: BOTH_WAYS[0].build(replace(SMALL, autoregressive=True)), "must be causal, not bidirectional"),
        (lambda: BOTH_WAYS[0].build(Addition().sizes), "holds the answers"),
    ],
)
def test_bad_configs(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize("target", ["parallel", "single"])
def test_bidirectional_attention_is_for_tasks_that_show_no_answer(target):
    task = Addition(digits=2, target=target)
    model = Transformer(d_model=8, heads=2, d_mlp=8, attention="bidirectional").build(task.sizes)
    batch = task.batch(task.draw(jax.random.key(0), 3))
    logits, _ = jax.eval_shape(lambda key: model.apply(model.init(key), batch.inputs), jax.random.key(0))
    assert logits.shape == (*batch.targets.shape, 10)
