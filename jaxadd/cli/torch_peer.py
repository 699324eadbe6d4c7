"""The training step in PyTorch, to compare with: a tidy transcription of the one-layer transformer, eager.

One batched matrix product per projection over all heads and positions, float64 cross-entropy, AdamW.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.models import structure
from jaxadd.models.model import Precision
from jaxadd.tasks import Addition, Task
from jaxadd.training.trainer import Trainer

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]
    """Tokens `[B, T]` and targets `[B, R]`, int64."""


def load(threads: int | None, precision: Precision = "highest") -> Any:
    """Return the torch module; None, and a line that says what to type, where it is not installed.

    Args:
      threads: for torch to use; None leaves its choice.
      precision: of float32 matrix products.
    """
    try:
        import torch
    except ModuleNotFoundError:
        print("torch is not installed, so its rows are left out; `uv run --group bench jaxadd benchmark` has them")
        return None
    torch.set_num_threads(threads or torch.get_num_threads())
    # JAX's names mean other things: its "default" is TF32 on a GPU, which torch calls "high".
    torch.set_float32_matmul_precision("highest" if precision == "highest" else "high")
    return torch


def transcription(trainer: Trainer, wrap: Callable = lambda f: f) -> tuple[Callable[[int], None], Callable[[], None]]:
    """Transcribe the model of a run, and return its training and its evaluation.

    Args:
      trainer: of one lane.
      wrap: applied to the loss, such as torch.compile.

    Returns:
      `steps(count)`, which makes steps and waits for the last of them only; and `evaluate()`, the full test loss.
    """
    import torch

    device = torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    model, task = structure.transformer(trainer.model), trainer.config.task
    d, h, k = model.d_model, model.heads, model.head_width
    length, classes, v, read = (
        task.sizes.length,
        task.sizes.classes,
        task.sizes.vocabulary or 0,
        list(task.sizes.read),
    )
    torch.manual_seed(0)

    def matrix(*shape: int, fan: int) -> "torch.nn.Parameter":
        return torch.nn.Parameter(torch.randn(*shape, device=device) / fan**0.5)

    w_e, w_pos, w_u = matrix(v, d, fan=d), matrix(length, d, fan=d), matrix(d, classes, fan=classes)
    w_q, w_k, w_v, w_o = (matrix(d, d, fan=d) for _ in range(4))
    w_in, w_out = matrix(d, model.d_mlp, fan=d), matrix(model.d_mlp, d, fan=d)
    b_in, b_out = (torch.nn.Parameter(torch.zeros(width, device=device)) for width in (model.d_mlp, d))
    parameters = [w_e, w_pos, w_u, w_q, w_k, w_v, w_o, w_in, w_out, b_in, b_out]
    adamw = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(step / 10, 1))
    mask = torch.tril(torch.ones(length, length, dtype=torch.bool, device=device))

    def forward(tokens: "torch.Tensor") -> "torch.Tensor":
        x = w_e[tokens] + w_pos
        q, key, value = ((x @ w).view(-1, length, h, k).transpose(1, 2) for w in (w_q, w_k, w_v))
        scores = (q @ key.transpose(-1, -2)).masked_fill(~mask, -1e10) / k**0.5
        z = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, length, d)
        x = x + z @ w_o
        x = x + torch.relu(x @ w_in + b_in) @ w_out + b_out
        return (x @ w_u)[:, read]

    def loss(batch: "Pair") -> "torch.Tensor":
        return torch.nn.functional.cross_entropy(forward(batch[0]).double().flatten(0, 1), batch[1].flatten())

    data = trainer.lane_data(0)
    pairs = (task.train_batch(data, jax.random.key(0), jnp.int32(0)), task.test_batch(data))
    train, test = (
        tuple(torch.tensor(np.asarray(x), device=device).long() for x in (b.inputs, b.targets)) for b in pairs
    )
    draw, compiled = drawing(task, train), wrap(loss)

    def steps(count: int) -> None:
        for _ in range(count):
            adamw.zero_grad()
            compiled(draw()).backward()
            adamw.step()
            schedule.step()
        synchronize()

    def evaluate() -> None:
        with torch.inference_mode():
            loss(test).item()

    return steps, evaluate


@functools.singledispatch
def drawing(task: Task, train: "Pair") -> Callable[[], "Pair"]:
    """Return what gives the batch of a step: the same pairs in every step by default."""
    return lambda: train


@drawing.register(Addition)
def _(task: Addition, train: "Pair") -> Callable[[], "Pair"]:
    """Draw fresh problems, as the code released with Nanda et al. (2023) does."""
    import torch

    device = train[0].device

    def draw() -> "Pair":
        digits = torch.randint(task.base, (task.batch_size, 2, task.digits), device=device)
        total = digits.sum(1)
        carry, answer = torch.zeros_like(total[:, 0]), []
        for column in range(task.digits):
            carry, digit = (total[:, column] + carry) // task.base, (total[:, column] + carry) % task.base
            answer.append(digit)
        answer = torch.stack([*answer, carry], 1).flip(1)
        plus, equals = (torch.full_like(carry, task.base + i)[:, None] for i in (0, 1))
        first, second = digits.flip(2).unbind(1)
        return torch.cat([first, plus, second, equals, answer[:, :-1]], 1), answer

    return draw
