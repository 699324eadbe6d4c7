"""Analyse a trained network: the standard measures as numbers and figures."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxadd import cli, figures, report, runs, subjects
from jaxadd.analysis import claims, clocks, damage, fourier, progress
from jaxadd.analysis.carries import CLASSES
from jaxadd.analysis.circuits import layers, neuron_to_logit
from jaxadd.analysis.phases import phases
from jaxadd.errors import UserError
from jaxadd.subjects import Subject
from jaxadd.tasks import Addition, Modular

_ABLATED = 512  # problems, half of them with forced cascades of every length


@dataclass(frozen=True)
class Analyse:
    """Analyse a trained network: the standard measures as numbers and figures.

    Of modular addition: key frequencies by four rules, restricted and excluded loss and the other progress measures
    of Nanda et al. (2023), over all saved states with the three phases, and Clock or Pizza. Of n-digit addition:
    what every head, neuron group and position is for, by mean ablation. Everything goes to RUN/analysis, or to
    CHECKPOINT-analysis beside you; analysis.json there holds all numbers in one flat object, whose names
    `jaxadd.analysis.progress.MEASURES` and `clocks.MEASURES` explain.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """a run folder, or a torch checkpoint in the mainline's or TransformerLens's format"""
    step: int | None = None
    """of a run: a saved step; the end by default"""
    lane: int = 0
    """of a run with several seeds: which of them, from 0"""
    keys: Literal["neurons", "neuron_logit_map", "embedding", "logits"] = "neurons"
    """the rule that finds the key frequencies"""
    out: Path | None = None
    """folder for the results"""
    task: Literal["modular", "addition"] = "modular"
    """of a checkpoint: what it was trained on"""
    p: int = 113
    """of a checkpoint: modulus"""
    train_fraction: float = 0.3
    """of a checkpoint: share of the pairs that it was trained on"""
    split_seed: int = 0
    """of a checkpoint: seed of the published split"""
    operation: Literal["add", "subtract"] = "add"
    """of a checkpoint: a + b or a - b"""
    digits: int = 5
    """of a checkpoint: of each operand"""
    activation: Literal["relu", "gelu"] = "relu"
    """of a checkpoint: it does not say"""


def main(options: Analyse) -> int:
    """Measure, print, write and draw; gives the exit status."""
    subject = _subject(options)
    if not 0 <= options.lane < len(subject.seeds):
        raise UserError(f"--lane must be one of the {len(subject.seeds)} of this run, from 0; got {options.lane}")
    analyse = _modular if isinstance(subject.task, Modular) else _addition
    numbers, findings = analyse(subject, options)
    beside = Path(f"{options.source.stem}-analysis") if options.source.is_file() else options.source / "analysis"
    folder = options.out or beside
    folder.mkdir(parents=True, exist_ok=True)
    finite = {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in numbers.items()}
    runs.write_text(folder / "analysis.json", json.dumps(finite, indent=2) + "\n")
    cli.show(folder, findings)
    return 0


def _subject(options: Analyse) -> Subject:
    if not options.source.is_file():
        note = lambda text: print(f"note: {text}", file=sys.stderr)  # noqa: E731
        return subjects.from_run(options.source, options.step, history=True, note=note)
    if options.task == "addition":
        task = Addition(digits=options.digits)
    else:
        task = Modular(
            p=options.p,
            operation=options.operation,
            train_fraction=options.train_fraction,
            split_seed=options.split_seed,
        )
    return subjects.from_checkpoint(options.source, task, activation=options.activation)


def _modular(subject: Subject, options: Analyse) -> tuple[dict[str, Any], cli.Findings]:
    task, apply, p = subject.task, subject.model.apply, subject.task.p
    params, pairs = jax.tree.map(lambda x: x[options.lane], (subject.params, subject.lane))
    table = progress.table(task, pairs)
    post = f"blocks.{layers(params) - 1}.mlp.hook_post"
    names = ["blocks.0.attn.hook_pattern", *([post] if post in subject.model.names else [])]
    logits, seen = jax.jit(lambda w: apply(w, table.inputs, names))(params)
    logits = logits[:, 0, :p]
    rules = {
        "logits": fourier.keys_of_logits(logits, table.answers),
        "embedding": fourier.keys_of_embedding(params["embed"]["W_E"][:p]),
    }
    numbers: dict[str, Any] = {}
    drawn = {}
    if post in seen:
        activations = seen[post][:, 0]
        rules["neurons"] = fourier.keys_of_neurons(activations)
        rules["neuron_logit_map"] = fourier.keys_of_neuron_logit_map(
            neuron_to_logit(params, layers(params) - 1)[:, :p]
        )
        clusters = fourier.clusters(fourier.neuron_shares(activations))
        frequency, share = np.asarray(clusters.frequency), np.asarray(clusters.share)
        counts = {int(k): int(n) for k, n in zip(*np.unique(frequency, return_counts=True), strict=True)}
        numbers |= {f"neurons_{'none' if k == 0 else k}": n for k, n in counts.items()}
        drawn["clusters"] = figures.neuron_clusters(frequency, share, subject.title)
        best = np.argsort(-np.asarray(jnp.std(activations, axis=0)))[:6]
        maps = np.asarray(activations[:, best]).T.reshape(len(best), p, p)
        spectra = np.stack([np.abs(fourier.transform_2d(m)) for m in maps])
        drawn["neurons"] = figures.neuron_maps(maps, spectra, [f"neuron {i}" for i in best], subject.title)
    if options.keys not in rules:
        raise UserError(f"--keys {options.keys} needs neurons, and this network has none; use {' or '.join(rules)}")
    keys = rules[options.keys]
    found = fourier.frequencies(keys)
    numbers |= progress.flat(jax.device_get(progress.measures(params, apply, table, keys)))
    numbers |= {f"key_frequencies_{rule}": list(fourier.frequencies(mask)) for rule, mask in rules.items()}
    some = jax.random.choice(jax.random.key(0), p * p, (min(500, p * p),), replace=False)
    numbers |= {k: float(v) for k, v in clocks.measures(params, apply, table, some).items()}
    lines = [
        f"key frequencies by {rule}: {', '.join(map(str, fourier.frequencies(mask))) or 'none'}"
        for rule, mask in rules.items()
    ]

    pattern = np.asarray(seen["blocks.0.attn.hook_pattern"])[:, :, -1]  # [P², H, 3]
    drawn["attention"] = figures.attention_over_pairs(pattern.transpose(1, 0, 2).reshape(-1, p, p, 3), subject.title)
    spectrum = np.linalg.norm(fourier.transform_2d(logits.reshape(p, p, p)), axis=-1)
    drawn["logits"] = figures.logit_spectrum(spectrum, found, subject.title)
    steps, norms = np.zeros(1, int), np.asarray(fourier.norms(params["embed"]["W_E"][:p]))[None]
    if subject.history is not None and len(subject.steps) > 1:
        steps = subject.steps
        past = jax.tree.map(lambda x: x[options.lane], subject.history)
        over = jax.device_get(progress.over_states(past, apply, table, keys))
        norms = over["embedding_norm_k"]
        ends = phases(
            steps, over["train_loss"], over["test_loss"], over["excluded_loss_train"], over["sum_of_squares"]
        )
        numbers |= {f"phase_{name}": end for name, end in ends._asdict().items()}
        lines.append(
            "phases: "
            + ", ".join(f"{n} by step {'never' if e is None else f'{e:,}'}" for n, e in ends._asdict().items())
        )
        series = {n: over[n][None] for n in ("train_loss", "test_loss", "restricted_loss_all", "excluded_loss_train")}
        series |= {f"excluded_loss_{k}": over["excluded_loss_k"][None, :, k - 1] for k in found}
        rest = ("sum_of_squares", "gini_W_E", "gini_W_L", "logit_variance_explained", "neuron_variance_explained")
        series |= {n: over[n][None] for n in rest if n in over}
        drawn["measures"] = figures.measures(steps, series, ends, subject.title)
    drawn["embedding"] = figures.embedding_norms(steps, norms, found, subject.title)
    shown = [
        n
        for n in numbers
        if not isinstance(numbers[n], list)
        and not n.startswith(("logit_cosine_", "embedding_norm_", "sum_of_squares."))
    ]
    shown = [n for n in shown if not n.startswith("excluded_loss_") or not n[14:].isdecimal() or int(n[14:]) in found]
    rows = [("measure", "value")] + [(n, "none" if numbers[n] is None else f"{numbers[n]:.7g}") for n in shown]
    return numbers, cli.Findings(drawn, "\n".join([*lines, "", report.table(rows)]))


def _addition(subject: Subject, options: Analyse) -> tuple[dict[str, Any], cli.Findings]:
    task, apply = subject.task, subject.model.apply
    params = jax.tree.map(lambda x: x[options.lane], subject.params)
    keys = jax.random.split(jax.random.key(1), task.digits + 1)
    forced = (
        [task.cascade(k, _ABLATED // 2 // task.digits, n) for n, k in enumerate(keys[1:])]
        if task.operation == "add"
        else []
    )
    operands = jnp.concatenate([task.draw(keys[0], _ABLATED // 2), *forced])
    batch = task.batch(operands)
    groups = [
        claims.neuron_groups(task, params, apply, batch, operands, i)
        for i in range(layers(params))
        if "mlp" in params[f"blocks.{i}"]
    ]
    units = damage.units(task, params, groups)
    found = damage.measure(task, params, apply, operands, units)
    said = damage.sentences(task, found)
    digits = [f"A{d}" for d in task.read_digits]
    worst = found.loss.max(axis=1)
    order = np.argsort(-worst)[:40]
    # Where nothing shows, what damages most is drawn all the same.
    shown = np.sort(order[: max(5, int(np.sum(worst[order] > damage.NOTICEABLE)))])
    pick = lambda x: np.asarray(x)[shown]  # noqa: E731
    figure = figures.damage_map(
        pick(found.loss), pick(found.by_class), [units[i].label for i in shown], digits, CLASSES, None, subject.title
    )
    numbers: dict[str, Any] = {
        f"damage.{unit.label}.{digit}": float(found.loss[i, r])
        for i, unit in enumerate(units)
        for r, digit in enumerate(digits)
    }
    names = damage.token_names(task)
    _, seen = jax.jit(
        lambda w: apply(w, batch.inputs, [f"blocks.{i}.attn.hook_pattern" for i in range(layers(params))])
    )(params)
    read = list(task.sizes.read)
    patterns = [jnp.mean(x, axis=0) for x in seen.values()]
    pattern = np.stack([np.asarray(x if x.shape[1] == len(read) else x[:, jnp.asarray(read)]) for x in patterns])
    maps = figures.attention_maps(pattern, digits, names, subject.title)
    return numbers, cli.Findings({"damage": figure, "attention": maps}, "\n".join(said))


if __name__ == "__main__":
    sys.exit(cli.command("experiments.analyse", Analyse, main))
