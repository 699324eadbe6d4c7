"""What the first attention of a network reads of every token, as the verification of a certificate computes it.

The functions are those of the plain pass. Axes: H heads, P positions, V tokens, D model, K head.
"""

import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.certificates import forward
from jaxadd.models import Network, Transformer, plain
from jaxadd.models.attention import slopes
from jaxadd.tasks import Addition
from jaxadd.types import Params

LIGHTEST = 1e-290  # Weights below it are held by float64 with few digits.


class Leaves(NamedTuple):
    """Cases that are not divided: they fix the same positions, and hold the same token at the one that is read.

    Attributes:
      read: the position that is read.
      own: the token there.
      positions: those that are fixed before it.
      tokens: int `[C, positions]`.
      targets: int `[C]`, the correct digits.
    """

    read: int
    own: int
    positions: tuple[int, ...]
    tokens: np.ndarray
    targets: np.ndarray

    def some(self, rows: slice) -> "Leaves":
        """Return some of the leaves."""
        return self._replace(tokens=self.tokens[rows], targets=self.targets[rows])


class Tables:
    """The stream of every token at every position, and what attention of the first block reads of it.

    Attributes:
      params: parameters in float64.
      digits: the positions of digits by their names; all other positions hold constants.
      constants: int `[P]`, the tokens there.
      x: `[V, P, D]`, the stream.
      scores: `[V, V, H, P, P]`, of a token that reads with one that is read.
      written: `[H, P, V, D]`, what a head writes where it reads one token alone.
    """

    def __init__(self, network: Network):
        self.config, self.sizes = cast(Transformer, network.config), network.model.sizes
        task = cast(Addition, network.task)
        self.base = task.base
        self.digits = {name: i for i, name in enumerate(task.position_names) if name[-1].isdigit() and name != "0"}
        self.constants = np.asarray(task.encode(jnp.zeros((2, task.digits), jnp.int32)))
        self.params = forward.float64(network.params)
        self.numbers = np.asarray(self.config.numbered(self.sizes))
        self.stream = forward.embedded(self.config, self.params, network.model)
        self.heads = forward.queries_keys_values(
            self.config, self.params["blocks.0"], self.stream, self.numbers.tolist()
        )
        with jax.enable_x64(True):
            self._read(jax.tree.map(lambda w: jax.device_put(np.asarray(w, np.float64)), network.params))

    def _read(self, params: Params) -> None:
        config = self.config
        x = jnp.broadcast_to(
            params["embed"]["W_E"][:, None], (self.sizes.vocabulary or 0, self.sizes.length, config.d_model)
        )
        if config.positions == "learned":
            x = x + params["pos_embed"]["W_pos"][None]
        q, k, v = read_by(config, params["blocks.0"], x, self.numbers)
        scores = plain.einsum("uhqk,vhpk->uvhqp", q, k) / math.sqrt(config.head_width)
        self.scores = np.array(scores)
        if config.positions == "alibi":
            self.scores -= penalties(config, self.numbers)
        self.written = np.asarray(plain.einsum("vhpk,hkd->hpvd", v, params["blocks.0"]["attn"]["W_O"]))
        self.x = np.asarray(x)

    def possible(self, read: int, own: int) -> np.ndarray:
        """Return the tokens that may be at each position up to `read`, which holds a token, bool `[P, V]`."""
        vocabulary = self.scores.shape[1]
        possible = np.zeros((read + 1, vocabulary), bool)
        for p in range(read + 1):
            digits = p in self.digits.values() and p != read
            possible[p] = (
                np.arange(vocabulary) < self.base
                if digits
                else np.arange(vocabulary) == (own if p == read else self.constants[p])
            )
        return possible

    def weights(self, read: int, own: int, possible: np.ndarray) -> np.ndarray:
        """Return exp(score) of a token with all before it, divided by the largest of the head, `[H, P, V]`."""
        score = self.scores[own, :, :, read, : read + 1].transpose(1, 2, 0)
        score = np.where(possible, score, -np.inf)
        return np.exp(score - score.max(axis=(1, 2), keepdims=True))

    def attention(self, inputs: np.ndarray, read: int) -> np.ndarray:
        """Return what attention writes at a position of every problem `[B, T]`, without its bias, `[B, D]`."""
        at = np.arange(read + 1)
        score = self.scores[inputs[:, read, None], inputs[:, : read + 1], :, read, at]  # [B, P, H]
        written = self.written[:, at, inputs[:, : read + 1]]  # [H, B, P, D]
        return np.einsum("bph,hbpd->bd", softmax(score, axis=1), written)


def read_by(
    config: Transformer, block: Params, x: jax.Array, numbers: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return queries, keys and values of streams `[B, T, D]`, `[B, H, T, K]`, by functions of the plain pass."""
    attn = block["attn"]
    with jax.numpy_rank_promotion("allow"):
        y = plain.normalized(config, block.get("ln1"), x) if config.norm_where != "post" else x
        q, k, v = (
            plain.einsum("btd,hdk->bhtk", y, attn[f"W_{name}"])
            + (attn[f"b_{name}"][None, :, None] if config.attention_bias else 0)
            for name in "QKV"
        )
        if config.qk_norm:
            q, k = (plain.scaled(config, attn.get(f"{n}_norm"), y) for n, y in (("q", q), ("k", k)))
        if config.positions == "rope":
            q, k = plain.rotated(config, q, numbers), plain.rotated(config, k, numbers)
    return q, k, v


def penalties(config: Transformer, numbers: np.ndarray) -> np.ndarray:
    """Return what ALiBi subtracts from every score, `[H, T, T]`."""
    return np.asarray(slopes(config.heads))[:, None, None] * np.abs(np.subtract.outer(numbers, numbers))


def softmax(score: np.ndarray, axis: int) -> np.ndarray:
    """Return attention weights."""
    weight = np.exp(score - score.max(axis=axis, keepdims=True))
    return weight / weight.sum(axis=axis, keepdims=True)
