"""Time a training step: ours, fast and plain, beside PyTorch and the machine's own limit; or many lanes at once.

`--task modular` is the mainline setting; `--task addition` is five digits, sequential, 256 fresh problems a step.

Prints a table: medians over repeats, interleaved so that a change of the machine's pace meets every row alike.
"plain" is our model asked for its embeddings, which makes it compute everything for every example and position.
PyTorch rows need torch (`uv run --group bench python -m experiments.benchmark`, with `--extra cuda13` before it on a
GPU, where both then run): a tidy transcription of the model with batched matrix products, eager, float64
cross-entropy, AdamW; fresh problems are drawn in the step.

With `--lanes 1 8 64 256 1024` it times that many networks side by side instead, as training runs per hour: lane-steps
a second, and PyTorch's single network, eager and compiled, beside them. The useful share is what our step's matrix
products alone would take at the machine's own rate; PyTorch's step has several times as many.
"""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxadd.analysis.modular import progress
from jaxadd.cli import experiment
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.optim import losses
from jaxadd.runs import train
from jaxadd.tasks import Addition, Modular
from jaxadd.training import costs
from jaxadd.training.step import EVALUATIONS
from jaxadd.training.trainer import Trainer
from jaxadd.types import Params
from jaxadd.views import figures


@dataclass(frozen=True)
class Benchmark:
    """Time a training step beside its alternatives."""

    task: Literal["modular", "addition"] = "modular"
    """what is learned"""
    repeats: int = 9
    """timings per row, of which the median is reported"""
    steps: int = 20
    """steps per timing"""
    threads: int | None = None
    """PyTorch's threads; None takes its own choice"""
    lanes: tuple[int, ...] = ()
    """time these numbers of networks at once instead"""
    figure: Path | None = None
    """with --lanes: draw the time by the number of networks here, as PNG"""

    def __post_init__(self) -> None:
        if self.figure and not self.lanes:
            raise UserError("--figure draws the times of --lanes, and there are none")
        for name, values, most in (
            ("repeats", (self.repeats,), 1000),
            ("steps", (self.steps,), EVALUATIONS),
            ("lanes", self.lanes, 2**20),
        ):
            if wrong := [value for value in values if not 1 <= value <= most]:
                raise UserError(f"--{name} must be from 1 to {most:,}, got {wrong[0]:,}")


def main(config: Benchmark) -> int:
    """Measure, and print the table; gives the exit status."""
    run = RunConfig(task=Modular() if config.task == "modular" else Addition())
    if config.lanes:
        _side_by_side(run, config)
    else:
        _one(run, config)
    return 0


def _one(run: RunConfig, config: Benchmark) -> None:
    """Print the times of a step of one network."""
    trainer = Trainer(run)
    flop = costs.arithmetic(trainer)
    rows: dict[str, tuple[Callable[[], Any], int]] = {
        "machine: 2048³ float32 product (GFLOP/s)": (_product(2048), 1),
        "jaxadd: train step": (_chunk(trainer, config.steps, 10**9), config.steps),
        "jaxadd: train step, no lanes, nothing recorded": (_without_lanes(trainer, config.steps), config.steps),
        "jaxadd: train step, test loss every 10": (_chunk(trainer, config.steps, 10), config.steps),
        "jaxadd: train step + full test loss": (_chunk(trainer, config.steps, 1), config.steps),
        "jaxadd: train step, plain model": (_plain(trainer, 5), 5),
        "jaxadd: batch alone": (_batches(trainer, 10 * config.steps), 10 * config.steps),
    }
    if isinstance(trainer.config.task, Modular):
        rows["jaxadd: all progress measures of a saved state"] = (_measures(trainer, 10), 10)
    if _torch(config):
        steps, evaluate = _torch_transcription(trainer)
        rows["PyTorch eager: train step"] = (lambda: steps(5), 5)
        rows["PyTorch eager: train step + full test loss"] = (lambda: [(steps(1), evaluate()) for _ in range(5)], 5)
    times = {name: [] for name in rows}
    for function, _ in rows.values():
        function()  # Compilation and warm-up.
    for _ in range(config.repeats):
        for name, (function, count) in rows.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) / count)
    batch, test = (part.targets.shape[0] for part in trainer.abstract_batches())
    print(f"{trainer.config.task.title}; {batch:,} examples a step, {test:,} test examples")
    _print(times, flop)


def _torch(config: Benchmark) -> Any:
    """Import torch; None, and a hint, where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        print("torch is not installed, so its rows are left out; add --group bench to uv run")
        return None
    torch.set_num_threads(config.threads or torch.get_num_threads())
    return torch


def _print(times: dict[str, list[float]], flop: int) -> None:
    place = train.environment()
    print(f"{place['device']}; JAX {place['jax']}, Python {place['python']}")
    quartiles = {name: np.percentile(values, [25, 50, 75]) for name, values in times.items()}
    machine, *steps = quartiles
    rate = 2 * 2048**3 / quartiles[machine][1]
    print(f"{machine:<46} {rate / 1e9:.0f}")
    print(
        f"{'floor: arithmetic of a train step at that rate':<46} {1e3 * flop / rate:.1f} ms ({flop / 1e9:.2f} GFLOP)"
    )
    for name in steps:
        low, median, high = 1e3 * quartiles[name]
        line = f"{name:<46} {median:.3g} ms (quartiles {low:.3g} to {high:.3g})"
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
    placed = trainer.place(trainer.init())
    placed = placed._replace(state=placed.state._replace(step=jnp.ones_like(placed.state.step)))

    def function() -> None:
        nonlocal placed
        state = trainer.chunk(placed, 1, steps, eval_every)[0].state
        placed = placed._replace(state=jax.block_until_ready(state._replace(step=jnp.ones_like(state.step))))

    return function


def _without_lanes(trainer: Trainer, steps: int) -> Callable[[], Params]:
    """Make the same updates of one network in a bare loop, on and on; gives its parameters."""
    hyper, data = take(trainer.hyper, 0), trainer.lane_data(0)
    transform = hyper.transform()

    def update(i: jax.Array, carry: tuple) -> tuple:
        params, opt_state, key = carry
        batch = trainer.config.task.train_batch(data, key, i)
        grads = jax.grad(lambda w: trainer.objective(w, batch, hyper)[0])(params)
        updates, opt_state = transform.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, key

    loop = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, update, carry), donate_argnums=0)
    state = take(trainer.init(), 0)
    carry = state.params, state.opt_state, state.key

    def function() -> Params:
        nonlocal carry
        carry = jax.block_until_ready(loop(carry))
        return carry[0]

    return function


def _side_by_side(run: RunConfig, config: Benchmark) -> None:
    """Print the rate of many networks at once, and of PyTorch's one."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    rate = 2 * size**3 / _median_seconds(_product(size), config.repeats)
    place = train.environment()
    print(f"{run.task.title}; {place['device']}; JAX {place['jax']}; {rate / 1e12:.3g} TFLOP/s in a {size}³ product")
    single = Trainer(run)
    flop = costs.arithmetic(single)

    def tell(name: str, per_second: float, more: str = "") -> None:
        share, hourly = per_second * flop / rate, 3600 * per_second / 10_000
        print(f"{name:<24}{per_second:>14,.0f}{share:>14.1%}{hourly:>24,.1f}{more}", flush=True)

    print(f"{'':<24}{'lane-steps/s':>14}{'useful share':>14}{'10,000-step runs/hour':>24}")
    eager = None
    if torch := _torch(config):
        for name, wrap in (("eager", lambda f: f), ("compiled", torch.compile)):
            steps, _ = _torch_transcription(single, wrap)
            rate_of_one = config.steps / _median_seconds(functools.partial(steps, config.steps), config.repeats)
            eager = eager or rate_of_one
            tell(f"PyTorch {name}, one", rate_of_one, f"   {rate_of_one / eager:,.1f} × eager")
    timed: dict[int, float] = {}
    for count in sorted(set(config.lanes)):
        try:
            trainer = Trainer(replace(run, seeds=tuple(range(count))))
            timed[count] = _median_seconds(_chunk(trainer, config.steps, 10**9), config.repeats) / config.steps
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"jaxadd, {count} at once do not fit the memory")
            continue
        per_second = count / timed[count]
        tell(f"jaxadd, {count:,} at once", per_second, f"   {per_second / eager:,.1f} × eager" if eager else "")
    if config.figure and timed:
        title = f"{run.task.title}, {place['device']}"
        figures.time_by_lanes(list(timed), list(timed.values()), title).savefig(config.figure)


def _median_seconds(function: Callable[[], Any], repeats: int) -> float:
    function()  # Compilation and warm-up.
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _plain(trainer: Trainer, steps: int) -> Callable[[], None]:
    apply, tx = trainer.model.apply, trainer.config.optimizer.transform()
    keep = lambda x: x
    sizes = trainer.config.task.sizes

    def loss(params, batch):
        logits, _ = apply(params, batch.inputs, edits={"hook_embed": keep}, read=tuple(range(sizes.length)))
        return jnp.mean(losses.cross_entropy(logits[:, jnp.asarray(sizes.read)], batch.targets))

    @jax.jit
    def step(params, opt_state, batch):
        updates, opt_state = tx.update(jax.grad(loss)(params, batch), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = take(trainer.init().params, 0)
    data = trainer.lane_data(0)
    batch = trainer.config.task.train_batch(data, jax.random.key(0), jnp.int32(0))
    carry = params, tx.init(params)

    def function() -> None:
        nonlocal carry
        for _ in range(steps):
            carry = step(*carry, batch)
        jax.block_until_ready(carry)

    return function


def _batches(trainer: Trainer, steps: int) -> Callable[[], None]:
    """Draw batches as the step does, and look at every number of them."""
    data = trainer.lane_data(0)

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        batch = trainer.config.task.train_batch(data, jax.random.key(0), step)
        return total + jnp.sum(batch.inputs) + jnp.sum(batch.targets)

    draw = jax.jit(lambda: jax.lax.fori_loop(0, steps, add, jnp.int32(0)))
    return lambda: draw().block_until_ready()


def _measures(trainer: Trainer, states: int) -> Callable[[], None]:
    """Measure states in one call; those of a fresh network cost what any others do."""
    many = jax.tree.map(lambda w: jnp.broadcast_to(w, (states, *w.shape[1:])), trainer.init().params)
    table = progress.table(trainer.config.task, take(trainer.data.lane, 0))
    keys = jnp.arange(trainer.config.task.p // 2) < 5
    return lambda: jax.block_until_ready(progress.over_states(many, trainer.model.apply, table, keys))


def _torch_transcription(
    trainer: Trainer, wrap: Callable = lambda f: f
) -> tuple[Callable[[int], None], Callable[[], None]]:
    """Transcribe the model tidily: one product per projection over all heads and positions."""
    import torch

    device = torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    model, task = trainer.config.model, trainer.config.task
    d, h, k = model.d_model, model.heads, model.d_head
    length, classes, v, read = task.sizes.length, task.sizes.classes, task.sizes.vocabulary, list(task.sizes.read)
    torch.manual_seed(0)

    def matrix(*shape: int, fan: int) -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.randn(*shape, device=device) / fan**0.5)

    w_e, w_pos, w_u = matrix(v, d, fan=d), matrix(length, d, fan=d), matrix(d, classes, fan=classes)
    w_q, w_k, w_v, w_o = (matrix(d, d, fan=d) for _ in range(4))
    w_in, w_out = matrix(d, model.d_mlp, fan=d), matrix(model.d_mlp, d, fan=d)
    b_in, b_out = (torch.nn.Parameter(torch.zeros(width, device=device)) for width in (model.d_mlp, d))
    parameters = [w_e, w_pos, w_u, w_q, w_k, w_v, w_o, w_in, w_out, b_in, b_out]
    adamw = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(step / 10, 1))
    mask = torch.tril(torch.ones(length, length, dtype=torch.bool, device=device))

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        x = w_e[tokens] + w_pos
        q, key, value = ((x @ w).view(-1, length, h, k).transpose(1, 2) for w in (w_q, w_k, w_v))
        scores = (q @ key.transpose(-1, -2)).masked_fill(~mask, -1e10) / k**0.5
        z = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, length, d)
        x = x + z @ w_o
        x = x + torch.relu(x @ w_in + b_in) @ w_out + b_out
        return (x @ w_u)[:, read]

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(forward(batch[0]).double().flatten(0, 1), batch[1].flatten())

    data = trainer.lane_data(0)
    pairs = (task.train_batch(data, jax.random.key(0), jnp.int32(0)), task.test_batch(data))
    train, test = (
        tuple(torch.tensor(np.asarray(x), device=device).long() for x in (b.inputs, b.targets)) for b in pairs
    )

    def fresh() -> tuple[torch.Tensor, torch.Tensor]:
        """Draw problems, as the released code does for addition; modular pairs stay the same."""
        if not isinstance(task, Addition):
            return train
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

    compiled = wrap(loss)

    def steps(count: int) -> None:
        """Make steps, and wait for the last of them only."""
        for _ in range(count):
            adamw.zero_grad()
            compiled(fresh()).backward()
            adamw.step()
            schedule.step()
        synchronize()

    def evaluate() -> None:
        with torch.inference_mode():
            loss(test).item()

    return steps, evaluate


if __name__ == "__main__":
    sys.exit(experiment.command("experiments.benchmark", Benchmark, main))
