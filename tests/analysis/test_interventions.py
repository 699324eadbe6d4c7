import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

from jaxadd.analysis import interventions as iv
from jaxadd.analysis.interventions import Site
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.optim import losses
from jaxadd.tasks import Addition

pytestmark = pytest.mark.jax_api

TASK = Addition(digits=2, batch_size=8, test_examples=8, cascade_examples=2)
MODEL = Transformer(layers=2, d_model=16, heads=2, d_mlp=32).build(TASK.sizes)
READ = TASK.sizes.read


@pytest.fixture(scope="module")
def given():
    params = drawn(MODEL)
    return params, TASK.batch(TASK.draw(jax.random.key(1), 8))


def test_edits_do_what_they_say():
    x = jax.random.normal(jax.random.key(0), (6, 3, 4))
    assert not iv.zero(x).any()
    np.testing.assert_allclose(iv.mean(x), np.broadcast_to(x.mean(0), x.shape))
    np.testing.assert_array_equal(iv.resample(jnp.arange(6)[::-1])(x), x[::-1])
    np.testing.assert_array_equal(iv.scale(2.0)(x), 2 * x)
    np.testing.assert_array_equal(iv.patch(x[:1])(x), np.broadcast_to(x[:1], x.shape))
    directions = jax.random.normal(jax.random.key(1), (2, 4)) @ jnp.diag(jnp.array([1.0, 2, 3, 4]))
    onto, out = iv.project_onto(directions)(x), iv.project_out(directions)(x)
    np.testing.assert_allclose(onto + out, x, atol=1e-5)
    np.testing.assert_allclose(out @ directions.T, 0, atol=1e-4)
    np.testing.assert_allclose(iv.project_onto(directions)(onto), onto, atol=1e-5)


def test_a_site_marks_its_members_and_nothing_else(given):
    params, batch = given
    sites = [
        Site("blocks.0.attn.hook_z", positions=(2, 5), heads=(1,)),
        Site("blocks.1.attn.hook_z", positions=(READ[1],)),
        Site("blocks.1.attn.hook_pattern", heads=(0,), sources=(3,)),
        Site("blocks.1.mlp.hook_post", neurons=(7,)),
    ]
    marked = iv.masks(sites, params, MODEL, batch.inputs)
    shapes = jax.eval_shape(lambda: MODEL.apply(params, batch.inputs, list(marked))[1])
    for i, site in enumerate(sites):
        for name, rows in marked.items():
            full = np.broadcast_to(rows[i], shapes[name].shape[1:])
            if name != site.name:
                assert not full.any()
        full = np.argwhere(np.broadcast_to(marked[site.name][i], shapes[site.name].shape[1:]))
        if i == 0:
            assert set(map(tuple, full[:, :2])) == {(2, 1), (5, 1)}
        if i == 1:
            assert set(full[:, 0]) == {1}  # The second of the positions that are computed there.
        if i == 2:
            assert set(full[:, 0]) == {0}
            assert set(full[:, 2]) == {3}
        if i == 3:
            assert set(full[:, 1]) == {7}


@pytest.mark.parametrize(
    ("site", "words"),
    [
        (Site("blocks.0.mlp.hook_post", heads=(0,)), "no heads"),
        (Site("blocks.1.attn.hook_z", positions=(0,)), "positions 5 to"),
        (Site("blocks.0.attn.hook_z", heads=(2,)), "not \\[2\\]"),
        (Site("blocks.9.attn.hook_z"), "no activation is named"),
    ],
)
def test_a_site_that_is_not_there_is_refused(given, site, words):
    params, batch = given
    with pytest.raises(ValueError, match=words):
        iv.masks([site], params, MODEL, batch.inputs)


def test_all_sites_in_one_call_equal_one_call_each(given):
    params, batch = given
    length = TASK.sizes.length
    sites = [Site("blocks.0.attn.hook_z", (t,), (h,)) for t in range(length) for h in range(2)]
    sites += [Site("blocks.1.attn.hook_z", (r,), (h,)) for r in READ for h in range(2)]
    marked = iv.masks(sites, params, MODEL, batch.inputs)
    traces = []

    def measure(logits):
        traces.append(1)
        return logits

    run = jax.jit(lambda p, m: iv.each(p, MODEL, batch.inputs, m, iv.mean, measure))
    together = run(params, marked)
    assert len(traces) == 1
    one = jax.jit(
        lambda rows: MODEL.apply(params, batch.inputs, (), {n: iv.where(m, iv.mean) for n, m in rows.items()})[0]
    )
    for i in (0, 9, len(sites) - 1):
        alone = one({name: jnp.asarray(rows[i]) for name, rows in marked.items()})
        np.testing.assert_allclose(together[i], alone, atol=1e-5)
    clean = one({name: jnp.zeros_like(rows[0]) for name, rows in marked.items()})
    moved = np.abs(np.asarray(together) - np.asarray(clean)).max(axis=(1, 2, 3))
    assert (moved > 1e-6).all()


def test_gradients_of_activations_are_finite_differences(given):
    params, batch = given
    objective = lambda logits: jnp.mean(losses.cross_entropy(logits, batch.targets))
    name = "blocks.1.mlp.hook_post"
    gradient = jax.jit(lambda p: iv.gradients(p, MODEL, batch.inputs, [name, "logits"], objective))(params)
    step = 1e-2 * jax.random.normal(jax.random.key(3), gradient[name].shape)
    moved = jax.jit(lambda s: objective(MODEL.apply(params, batch.inputs, (), {name: lambda x: x + s * step})[0]))
    ahead, behind = moved(1.0), moved(-1.0)
    np.testing.assert_allclose(jnp.sum(gradient[name] * step), (ahead - behind) / 2, rtol=1e-2, atol=1e-5)
    assert gradient["logits"].shape == (8, len(READ), 10)


def test_interventions_work_under_vmap_over_lanes(given):
    _, batch = given
    lanes = jax.tree.map(lambda *w: jnp.stack(w), *(drawn(MODEL, seed) for seed in range(3)))
    ablate = jax.jit(lambda p: MODEL.apply(p, batch.inputs, (), {"blocks.0.attn.hook_z": iv.zero})[0])
    together = jax.jit(jax.vmap(ablate))(lanes)
    for s in range(3):
        alone = ablate(take(lanes, s))
        np.testing.assert_allclose(together[s], alone, atol=1e-5)


def test_what_a_network_with_nan_does_without_a_part_is_nan(given):
    """One bad weight reaches every logit, so no ablation effect may look like none."""
    params, batch = given
    broken = {**params, "embed": {"W_E": params["embed"]["W_E"].at[0, 0].set(jnp.nan)}}
    marked = iv.masks([Site("blocks.0.attn.hook_z", heads=(0,))], broken, MODEL, batch.inputs)
    measure = lambda logits: jnp.mean(losses.cross_entropy(logits, batch.targets))
    effect = jax.jit(lambda p, m: iv.each(p, MODEL, batch.inputs, m, iv.mean, measure))(broken, marked)
    assert np.isnan(effect).all()
