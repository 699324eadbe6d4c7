"""Losses that stay precise in relative terms in float32, and configs of the loss that training minimises."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from jaxadd.errors import check_numbers


def _strongest_rival(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return d_j = z_j - z_y `[..., C]` (-inf at the target y), its maximum `[..., 1]`, and the mask j = y."""
    targets = jnp.asarray(targets)
    chex.assert_rank(logits, targets.ndim + 1)
    chex.assert_equal_shape_prefix([logits, targets], targets.ndim)
    is_target = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
    target_logit = jnp.sum(jnp.where(is_target, logits, 0), axis=-1, keepdims=True)
    lead = jnp.where(is_target, -jnp.inf, logits - target_logit)
    return lead, jnp.max(lead, axis=-1, keepdims=True), is_target


def margin(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the correct logit minus the largest other logit.

    Args:
      logits: float `[..., C]`.
      targets: int `[...]`, in `[0, C)`.

    Returns:
      `[...]`, nats; positive exactly where the answer is correct. A tie is an error. -inf where any logit of the
      example is not finite: XLA's maximum ignores NaN on a CPU, and such an example must never count as correct.
    """
    lead = -_strongest_rival(logits, targets)[1][..., 0]
    return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1), lead, -jnp.inf)


@jax.custom_jvp
def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the cross-entropy of each example, with full relative precision however small it is.

    With d_j = z_j - z_y for the classes j other than the target y, the loss is log1p(Σ_j exp d_j), and
    its gradient at the target is -S / (1 + S), S = Σ_j exp d_j. The usual log-softmax instead takes the
    difference of nearly equal numbers and rounds to 0 below 1e-7, which is where the loss spikes of
    float32 grokking runs come from ("slingshots").

    Precision holds as long as the result is a normal float32 number (above 1.2e-38); XLA flushes
    smaller ones to 0 on CPU and GPU.

    A rival of -inf would add nothing to the sum and leave the loss finite, as a mask does. Here no class is masked:
    such a logit is an overflow, and the example has no answer: it counts as an error (`margin`), and its loss is
    infinite, by which training ends as diverged. Otherwise a network could reach a threshold of the loss without one
    correct answer.

    Args:
      logits: float `[..., C]`.
      targets: int `[...]`, in `[0, C)`.

    Returns:
      `[...]`, nats, in the dtype of `logits`; infinite or NaN where any logit of the example is not finite.
    """
    return _cross_entropy_and_gradient(logits, targets)[0]


@cross_entropy.defjvp
def _cross_entropy_jvp(primals, tangents):
    loss, gradient = _cross_entropy_and_gradient(*primals)
    return loss, jnp.sum(gradient * tangents[0], axis=-1)


def _cross_entropy_and_gradient(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    lead, top, is_target = _strongest_rival(logits, targets)
    rivals = jnp.exp(lead - top)  # In [0, 1]: 1 for the strongest rival, 0 for the target.
    total = jnp.sum(rivals, axis=-1, keepdims=True)
    # S = exp(top) · total. The factor exp(top) is applied in two halves, because it may underflow where its product
    # with `total` is still a normal number.
    half = jnp.exp(jnp.minimum(top, 0) / 2)
    odds = half * total * half
    target = jnp.exp(-jnp.maximum(top, 0))  # exp(-top) where a rival leads.
    loss = jnp.where(top > 0, top + jnp.log(total + target), jnp.log1p(odds))
    finite = jnp.all(jnp.isfinite(logits), axis=-1, keepdims=True)
    loss += jnp.where(finite, 0, jnp.inf)
    denominator = jnp.where(top > 0, total + target, 1 + odds)
    gradient = jnp.where(is_target, -(half * total * half), rivals * half * half) / denominator
    return loss[..., 0], gradient


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy, with full relative precision however small it is."""

    def __call__(self, logits: jax.Array, targets: jax.Array, cross_entropy: jax.Array) -> jax.Array:
        """Return the loss `[...]` to minimise, from logits `[..., C]`, targets `[...]` and cross-entropy `[...]`."""
        return cross_entropy


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelSmoothing:
    """Cross-entropy with targets that are partly uniform (Szegedy et al. 2016)."""

    amount: float = 0.1
    """fraction of the target that is spread evenly over all classes"""

    def __post_init__(self) -> None:
        check_numbers(self, amount=(0, 1))

    def __call__(self, logits: jax.Array, targets: jax.Array, cross_entropy: jax.Array) -> jax.Array:
        """Return the loss to minimise; arguments as for CrossEntropy."""
        uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        return (1 - self.amount) * cross_entropy + self.amount * uniform


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StableMax:
    """Cross-entropy of s(z) / Σ s(z), s(x) = x + 1 for x ≥ 0 and 1 / (1 - x) below (Prieto et al. 2025)."""

    def __call__(self, logits: jax.Array, targets: jax.Array, cross_entropy: jax.Array) -> jax.Array:
        """Return the loss to minimise; arguments as for CrossEntropy."""
        above = logits >= 0
        # Each branch gets 0 where the other one holds; a maximum would halve the derivative at 0.
        log_s = jnp.where(above, jnp.log1p(jnp.where(above, logits, 0)), -jnp.log1p(-jnp.where(above, 0, logits)))
        target_log_s = jnp.take_along_axis(log_s, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(log_s, axis=-1) - target_log_s


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MeanSquaredError:
    """Mean over classes of the squared difference between the logits and the one-hot target (Gromov 2023)."""

    def __call__(self, logits: jax.Array, targets: jax.Array, cross_entropy: jax.Array) -> jax.Array:
        """Return the loss to minimise; arguments as for CrossEntropy."""
        return jnp.mean((logits - jax.nn.one_hot(targets, logits.shape[-1])) ** 2, axis=-1)


Loss = CrossEntropy | LabelSmoothing | StableMax | MeanSquaredError
