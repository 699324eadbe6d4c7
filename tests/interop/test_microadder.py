"""Networks of MicroAdder: what they compute, by their definition, and what is refused."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from checkpoints import file, refused

from jaxadd import interop
from jaxadd.cli.checkpoint import trained
from jaxadd.errors import UserError
from jaxadd.models.plain import forward
from jaxadd.tasks import Modular
from jaxadd.tasks.addition import board

TASK = replace(board.TASK, separators="zero-signs")


def state(neurons=2, inner=5, reads=3, tied=True):
    """The state dict of a network with random numbers."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    names = {
        **{"tok_arc_A": (), "tok_arc_start": (), "tok_arc_stride": ()},
        **{"spiral_amp": (), "spiral_phase": (), "spiral_slope": (), "spiral_offset": ()},
        **{"_plus_pos": (1, 3), "special_pos_equals": (1, 3), "z_hi_pos": (1, 3), "_eos_pos": (1, 3)},
        **{"q_phase_angle": (1,), "q_proj.weight": (inner, reads), "out_proj.A": (5, 1), "out_proj.B": (1, 5)},
        **{"fc1.weight": (neurons, 5), "head_proj.weight": (2, 5), "norm1.weight": (5,)},
        **({} if tied else {"fc2.weight": (5, neurons)}),
    }
    found = {name: draw(*shape) for name, shape in names.items()}
    found |= dict.fromkeys(("norm2.weight", "norm_f.weight"), found["norm1.weight"])
    return found | {"causal_mask": np.tri(34, dtype=np.float32)[None, None]}


def defined(w, tokens):
    """Compute the logits `[T, 10]` of one sequence as MicroAdder defines them, coordinate by coordinate."""
    w = {name: np.asarray(array, np.float64) for name, array in w.items()}
    arc = [w["tok_arc_start"] + w["tok_arc_stride"] * d for d in range(10)]
    table = w["tok_arc_A"] * np.asarray([[math.cos(x), math.sin(x)] for x in arc])
    turn = [2 * math.pi * i / 10 + w["spiral_phase"] for i in range(10)]
    spiral = [
        [w["spiral_amp"] * math.cos(x), w["spiral_amp"] * math.sin(x), w["spiral_slope"] * i + w["spiral_offset"]]
        for i, x in enumerate(turn)
    ]
    places = [*spiral, w["_plus_pos"][0], *spiral, w["special_pos_equals"][0], *spiral, w["z_hi_pos"][0]]
    x = np.asarray([[*table[token], *place] for token, place in zip(tokens, places, strict=False)])
    normed = lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w["norm1.weight"]
    y, angle, head = normed(x), float(w["q_phase_angle"][0]), w["head_proj.weight"]
    keys = y[:, 5 - w["q_proj.weight"].shape[1] :] @ w["q_proj.weight"].T
    queries = keys.copy()
    for pair in range(keys.shape[1] // 2):
        a, b = keys[:, 2 * pair], keys[:, 2 * pair + 1]
        queries[:, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        queries[:, 2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    scores = np.where(np.tri(len(tokens)) > 0, queries @ keys.T / math.sqrt(keys.shape[1]), -np.inf)
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    x = x + attention @ (y[:, :2] @ head) @ w["out_proj.A"] @ w["out_proj.B"]
    neurons = normed(x) @ w["fc1.weight"].T
    neurons = neurons * 0.5 * (1 + np.vectorize(math.erf)(neurons / math.sqrt(2)))
    x = x + neurons @ (w["fc2.weight"].T if "fc2.weight" in w else head)
    return normed(x) @ head.T @ table.T


@pytest.mark.parametrize("shape", [{}, {"neurons": 3, "inner": 4, "reads": 5, "tied": False}])
def test_the_logits_are_those_of_the_definition(shape):
    w = state(**shape)
    found = interop.from_state_dict(w)
    assert (found.length, found.vocabulary, found.classes, found.layout) == (34, 10, 10, "microadder")
    tokens = np.asarray(TASK.encode(board.suite(0)[7:8]))[:, : TASK.sizes.length]
    model = found.config.build(TASK.sizes)
    logits = jax.jit(lambda params: forward(params, model, tokens))(found.params_for(TASK.sizes))
    np.testing.assert_allclose(logits[0], defined(w, tokens[0]), rtol=2e-3, atol=2e-3)


def test_norms_without_weights_are_read():
    w = {name: array for name, array in state().items() if not name.startswith("norm")}
    assert not interop.from_state_dict(w).config.norm_weight


def test_the_task_is_inferred_and_said(tmp_path):
    notes = []
    network = trained(file(tmp_path, state()), Modular(), note=notes.append).networks[0]
    assert network.task == TASK
    assert "inferred 10-digit addition, base 10, sequential, lsd first, separators zero-signs, as of all" in notes[-1]
    assert network.split_known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_hi_pos": None, "fc1.weight": None}, r"lacks z_hi_pos, fc1\.weight"),
        ({"norm1.base_weight": np.ones(5)}, r"holds norm1\.base_weight \(5,\), for which"),
        ({"out_proj.A": np.ones((4, 1))}, r"out_proj\.A should have shape \(5, 1\), got \(4, 1\)"),
        ({"head_proj.weight": np.ones((2, 5, 1))}, r"should be matrices, got the shapes .*\(2, 5, 1\)"),
        ({"fc1.weight": np.ones(())}, r"should be matrices, got the shapes \(5, 3\), \(\)"),
        ({"fc1.weight": np.ones((3, 5))}, r"head_proj\.weight should have shape \(3, 5\), got \(2, 5\)"),
        ({"norm2.weight": None}, r"lacks norm2\.weight"),
        ({"tok_arc_A": None}, r"lacks tok_arc_A"),
        ({"tok_arc_start": np.ones(2)}, r"tok_arc_start should have shape \(\), got \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    w = {name: array for name, array in (state() | change).items() if array is not None}
    refused(file(tmp_path, w), message)


def test_fields_and_configs_that_do_not_fit_are_refused(tmp_path):
    message = r"do not fit the architecture: blocks\.0\.attn\.W_K \(1, 5, 5\) should have shape \(2, 5, 5\)"
    refused(file(tmp_path, state()), message, fields={"heads": 2})
    refused(file(tmp_path, state()), "holds blocks.0.ln1.w", fields={"norm": "none"})
    refused(file(tmp_path, {"model": state(), "config": {"n_heads": 2}}), "config states heads 2, and .* heads 1")


def test_a_task_that_is_named_is_not_inferred(tmp_path):
    with pytest.raises(UserError, match=r"10 tokens and the task has 114.* needs no --task"):
        trained(file(tmp_path, state()), Modular(), typed=["--task"])
    with pytest.raises(UserError, match=r"10 tokens and the task has 114"):
        trained(file(tmp_path, state()), Modular(), typed=["--task", "--task.p"])
