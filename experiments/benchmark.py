"""Time the mainline training step: ours, fast and plain, beside eager PyTorch and the machine's own limit.

Prints a table: medians over repeats, interleaved so that a change of the machine's pace meets every row alike.
"plain" is our model asked for its embeddings, which makes it compute everything for every example and position.
PyTorch rows need torch (`uv run --group bench python -m experiments.benchmark`): a tidy transcription of
the mainline model with batched matrix products, eager, float64 cross-entropy, AdamW.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from jaxadd import losses, runs
from jaxadd.config import RunConfig
from jaxadd.optimizers import AdamW
from jaxadd.train import Trainer


@dataclass(frozen=True)
class Benchmark:
    """Time the mainline training step beside its alternatives."""

    repeats: int = 9
    """timings per row, of which the median is reported"""
    steps: int = 20
    """steps per timing"""
    threads: int | None = None
    """PyTorch's threads; None takes its own choice"""


def main(config: Benchmark) -> None:
    """Measure and print the table."""
    trainer = Trainer(RunConfig(optimizer=AdamW()))
    flop = trainer.arithmetic()
    rows: dict[str, tuple[Callable[[], None], int]] = {
        "machine: 2048³ float32 product (GFLOP/s)": (_product(2048), 1),
        "jaxadd: train step": (_chunk(trainer, config.steps, 10**9), config.steps),
        "jaxadd: train step, test loss every 10": (_chunk(trainer, config.steps, 10), config.steps),
        "jaxadd: train step + full test loss": (_chunk(trainer, config.steps, 1), config.steps),
        "jaxadd: train step, plain model": (_plain(trainer, 5), 5),
    }
    try:
        import torch
    except ModuleNotFoundError:
        print("torch is not installed, so its rows are left out; add --group bench to uv run")
    else:
        torch.set_num_threads(config.threads or torch.get_num_threads())
        step, evaluate = _torch_transcription(trainer)
        rows["PyTorch eager: train step"] = (lambda: [step() for _ in range(5)], 5)
        rows["PyTorch eager: train step + full test loss"] = (lambda: [(step(), evaluate()) for _ in range(5)], 5)
    times = {name: [] for name in rows}
    for function, _ in rows.values():
        function()  # Compilation and warm-up.
    for _ in range(config.repeats):
        for name, (function, count) in rows.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) / count)
    _print(times, flop)


def _print(times: dict[str, list[float]], flop: int) -> None:
    place = runs.environment()
    print(f"{place['device']}; JAX {place['jax']}, Python {place['python']}; P 113, 3,830 train and 8,939 test pairs")
    quartiles = {name: np.percentile(values, [25, 50, 75]) for name, values in times.items()}
    machine, *steps = quartiles
    rate = 2 * 2048**3 / quartiles[machine][1]
    print(f"{machine:<46} {rate / 1e9:.0f}")
    print(
        f"{'floor: arithmetic of a train step at that rate':<46} {1e3 * flop / rate:.1f} ms ({flop / 1e9:.2f} GFLOP)"
    )
    for name in steps:
        low, median, high = 1e3 * quartiles[name]
        line = f"{name:<46} {median:.1f} ms (quartiles {low:.1f} to {high:.1f})"
        # Like is compared with like only.
        peer = name.replace("jaxadd", "PyTorch eager")
        if name.startswith("jaxadd") and peer in quartiles:
            line += f"   {quartiles[peer][1] / quartiles[name][1]:.1f}× as fast as {peer}"
        print(line)


def _product(n: int) -> Callable[[], None]:
    a = jax.random.normal(jax.random.key(0), (n, n))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    return lambda: product(a).block_until_ready()


def _chunk(trainer: Trainer, steps: int, eval_every: int) -> Callable[[], None]:
    """Run chunks from step 1 on again and again; step 0 would be evaluated whatever the interval."""
    state = trainer.init()
    state = state._replace(step=state.step + 1)

    def function() -> None:
        nonlocal state
        state, _, _ = trainer.chunk(state, 1, steps, eval_every)
        state = jax.block_until_ready(state._replace(step=jnp.ones_like(state.step)))

    return function


def _plain(trainer: Trainer, steps: int) -> Callable[[], None]:
    apply, tx = trainer.model.apply, trainer.config.optimizer.transform()
    keep = lambda x: x  # noqa: E731
    length = trainer.config.task.sizes.length

    def loss(params, batch):
        logits, _ = apply(params, batch.inputs, edits={"hook_embed": keep}, read=tuple(range(length)))
        return jnp.mean(losses.cross_entropy(logits[:, -1:], batch.targets))

    @jax.jit
    def step(params, opt_state, batch):
        updates, opt_state = tx.update(jax.grad(loss)(params, batch), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = jax.tree.map(lambda x: x[0], trainer.init().params)
    data = trainer.data._replace(lane=jax.tree.map(lambda x: x[0], trainer.data.lane))
    batch = trainer.config.task.train_batch(data, jax.random.key(0), jnp.int32(0))
    carry = params, tx.init(params)

    def function() -> None:
        nonlocal carry
        for _ in range(steps):
            carry = step(*carry, batch)
        jax.block_until_ready(carry)

    return function


def _torch_transcription(trainer: Trainer) -> tuple[Callable[[], None], Callable[[], None]]:
    """Transcribe the mainline model tidily: one product per projection over all heads and positions."""
    import torch

    device = torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    model, task = trainer.config.model, trainer.config.task
    d, h, k, v = model.d_model, model.heads, model.d_head, task.sizes.vocabulary
    torch.manual_seed(0)

    def matrix(*shape: int, fan: int) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.randn(*shape, device=device) / fan**0.5)

    w_e, w_pos, w_u = matrix(v, d, fan=d), matrix(3, d, fan=d), matrix(d, v, fan=v)
    w_q, w_k, w_v, w_o = (matrix(d, d, fan=d) for _ in range(4))
    w_in, w_out = matrix(d, model.d_mlp, fan=d), matrix(model.d_mlp, d, fan=d)
    b_in, b_out = (torch.nn.Parameter(torch.zeros(width, device=device)) for width in (model.d_mlp, d))
    parameters = [w_e, w_pos, w_u, w_q, w_k, w_v, w_o, w_in, w_out, b_in, b_out]
    adamw = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(step / 10, 1))
    mask = torch.tril(torch.ones(3, 3, dtype=torch.bool, device=device))

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        x = w_e[tokens] + w_pos
        q, key, value = ((x @ w).view(-1, 3, h, k).transpose(1, 2) for w in (w_q, w_k, w_v))
        scores = (q @ key.transpose(-1, -2)).masked_fill(~mask, -1e10) / k**0.5
        z = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, 3, d)
        x = x + z @ w_o
        x = x + torch.relu(x @ w_in + b_in) @ w_out + b_out
        return (x @ w_u)[:, -1]

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(forward(batch[0]).double(), batch[1])

    data = trainer.data._replace(lane=jax.tree.map(lambda x: x[0], trainer.data.lane))
    pairs = (task.train_batch(data, jax.random.key(0), jnp.int32(0)), task.test_batch(data))
    train, test = (
        tuple(torch.tensor(np.asarray(x), device=device).long() for x in (b.inputs, b.targets[:, 0])) for b in pairs
    )

    def step() -> None:
        adamw.zero_grad()
        loss(train).backward()
        adamw.step()
        schedule.step()
        synchronize()

    def evaluate() -> None:
        with torch.inference_mode():
            loss(test).item()

    return step, evaluate


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Benchmark)))
