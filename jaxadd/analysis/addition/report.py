"""What is measured and shown of a network that adds numbers of N digits."""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxadd.analysis import measures, plateaus
from jaxadd.analysis.addition import ablation
from jaxadd.analysis.addition.exact import FORCED, UNIFORM, exact_matches
from jaxadd.analysis.addition.neurons import neuron_groups
from jaxadd.analysis.measures import Measure
from jaxadd.analysis.performance import percent
from jaxadd.analysis.plateaus import Plateau
from jaxadd.analysis.report import analyse_task, no_keys, recorded_figures, summarize_task
from jaxadd.analysis.trained import Report, Trained, as_text
from jaxadd.models import Model, Network, structure
from jaxadd.pictures import Bars, FigureOf, HeatMaps, Level, Lines, Span, Table, Text, thin
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.carries import CLASSES
from jaxadd.types import Data, Metrics, Params, Positions

_EXAMPLES = 512  # problems to ablate on, half of them with forced cascades of every length
_COMPONENTS = 40  # drawn, those of the largest effect
_FRAMES = 60  # of what evolves
_SNAPSHOTS = 7
_LOWEST = 2e-3  # nats, the lower end of the digits' curves


# --- measures ---------------------------------------------------------------------------------------------


def declared(task: Addition) -> tuple[Measure, ...]:
    """Declare what is measured beside loss and accuracy, functions of what `Addition.measure` returns."""

    def by(names: Sequence[str], name: str, definition: str, unit: str) -> Measure:
        return Measure(name, definition, unit, lambda s: s[name], entry=lambda i: f"{name}.{names[i]}")

    lengths = [str(n) for n in range(task.digits)]
    measured = (
        by(
            CLASSES,
            "accuracy_by_class",
            "exact match of the test problems of a carry class: S0 no carry, S1 carries but no cascade, S2 to S5 a "
            "cascade over 1, 2, 3, and 4 or more columns",
            "fraction",
        ),
        by(
            lengths,
            "accuracy_by_cascade",
            "exact match of problems with a forced cascade, by the number of columns that it runs over",
            "fraction",
        ),
        by(task.answer_names, "leak", "loss of a digit that is probability outside the possible digits", "nats"),
        by(task.answer_names, "carry_loss", "the rest of its loss: the carry is mistaken or uncertain", "nats"),
        by(task.answer_names, "carry_entropy", "uncertainty about the carry that the network states", "nats"),
    )
    if task.target != "sequential":
        return measured
    words = "accuracy of a digit, fed with the network's own answers so far"
    return (*measured, by(task.answer_names, "free_digit_accuracy", words, "fraction"))


@functools.partial(jax.jit, static_argnames=("model", "task"))
def _measure(params: Params, model: Model, task: Addition, data: Data) -> dict[str, jax.Array]:
    def predict(inputs: jax.Array, read: Positions | None = None) -> jax.Array:
        return model.apply(params, inputs, read=read)[0]

    batch = task.test_batch(data)
    return task.measure(data, batch, predict(batch.inputs), predict)


# --- a finished run ---------------------------------------------------------------------------------------


@summarize_task.register
def _(task: Addition, trained: Trained) -> Report:
    """Show what each digit learned and when, and measure exact match on many problems of every kind."""
    seeds = [str(network.seed) for network in trained.networks]
    found = _plateaus(task, trained.metrics)
    heading = ("seed", "uniform", *(f"cascade {n}" for n in range(task.digits)))
    exact = exact_matches(trained.networks)
    rows = [(seed, *map(percent, lane)) for seed, lane in zip(seeds, exact, strict=True)]
    matches = Table(
        f"Exact match of {UNIFORM:,} new uniform problems, and {FORCED:,} with a cascade from the units on over each "
        "number of columns",
        heading,
        rows,
    )
    tables = [*_plateau_table(task, found, seeds), matches]
    text = "\n\n".join(map(as_text, tables))
    return Report.of(text, blocks=[*_training_figures(task, trained, 0, found), *tables])


def _plateaus(task: Addition, metrics: Metrics) -> list[list[list[Plateau]]]:
    """Return the plateaus of every digit's train loss in every lane; nothing where it was not recorded."""
    if "train_position_loss" not in metrics:
        return []
    return [
        [plateaus.find(lane[:, r], metrics["step"], task.floors(digit)) for lane in metrics["train_position_loss"]]
        for r, digit in enumerate(task.read_digits)
    ]


def _plateau_table(task: Addition, found: list[list[list[Plateau]]], seeds: Sequence[str]) -> list[Table]:
    rows = []
    for name, lanes in zip(task.answer_names, found, strict=False):
        for seed, lane in zip(seeds, lanes, strict=True):
            for plateau in lane:
                steps = f"{plateau.start:,} to {plateau.end:,}" + ("" if plateau.left else ", not left")
                rows.append((name, seed, plateau.name or "no floor", f"{plateau.level:.3f}", steps))
    title = "Plateaus of the train loss, named by the nearest exact floor"
    return [Table(title, ("digit", "seed", "plateau", "nats", "steps"), rows)] if found else []


def _training_figures(
    task: Addition, trained: Trained, lane: int, found: list[list[list[Plateau]]]
) -> list[FigureOf]:
    """Describe what was recorded in training; nothing where it is not known."""
    if not found:
        return []
    metrics, title = trained.metrics, trained.title
    steps = metrics["evaluation/step"]
    first = trained.subject(lane)
    figures = [
        FigureOf("digits", "Train loss of each answer digit", _digit_curves(task, metrics, lane, found), title),
        FigureOf("offsets", "Mean probability by offset from the naive digit", _offsets(task, metrics), title),
    ]
    known = np.flatnonzero(~np.isnan(metrics["evaluation/confusion"][lane]).all(axis=(1, 2, 3)))
    frames = known[thin(len(known), _FRAMES)]
    confusion = metrics["evaluation/confusion"][lane, frames]
    figures.append(_confusion(task, steps[frames], confusion, first))
    return [*figures, _cascades(metrics, title), *_classes(metrics, title)]


def _digit_curves(task: Addition, metrics: Metrics, lane: int, found: list[list[list[Plateau]]]) -> list[Lines]:
    pictures = []
    for r, (name, digit) in enumerate(zip(task.answer_names, task.read_digits, strict=True)):
        loss = metrics["train_position_loss"][:, :, r]
        pictures.append(
            Lines(
                name,
                metrics["step"],
                {"train": plateaus.smooth(loss, metrics["step"])},
                "train loss, nats",
                log_x=True,
                log_y=True,
                ylim=(_LOWEST, max(4.0, float(np.nanmax(loss, initial=0)))),
                levels=[Level(level, floor) for floor, level in task.floors(digit).items()],
                spans=[Span(s.start, s.end, s.name or "no floor", s.level) for s in found[r][lane]],
                behind={"raw": loss[lane]},
            )
        )
    return pictures


def _offsets(task: Addition, metrics: Metrics) -> list[Lines]:
    probability = metrics["evaluation/offset"]  # [S, E, R, base]
    return [
        Lines(
            name,
            metrics["evaluation/step"],
            {
                "naive digit": probability[:, :, r, 0],
                "naive + 1": probability[:, :, r, 1],
                "any other": 1 - probability[:, :, r, 0] - probability[:, :, r, 1],
            },
            "mean probability",
            log_x=True,
            ylim=(0, 1),
            stacked=True,
        )
        for r, name in enumerate(task.answer_names)
    ]


def _confusion(task: Addition, steps: np.ndarray, confusion: np.ndarray, subject: str) -> FigureOf:
    """Describe the mean probability of each digit by true digit, `[E, R, base, base]`."""
    numerals = [str(d) for d in range(task.base)]
    picture = HeatMaps(
        "Confusion: mean probability of each digit, by true digit",
        steps,
        {name: confusion[:, r] for r, name in enumerate(task.answer_names)},
        numerals,
        numerals,
        xlabel="digit predicted",
        ylabel="true digit",
        unit="mean probability",
        limits=(0, 1),
        snapshots=_SNAPSHOTS,
        note="Grey: no test problem has that digit.",
    )
    return FigureOf("confusion", picture.title, [picture], subject)


def _cascades(metrics: Metrics, title: str) -> FigureOf:
    steps, by_length = metrics["evaluation/step"], metrics["evaluation/accuracy_by_cascade"]
    uniform = metrics["test_accuracy"][:, np.searchsorted(metrics["step"], steps)]
    series = {"test set": uniform} | {f"over {n}": by_length[..., n] for n in range(by_length.shape[-1])}
    picture = Lines(
        "Exact match by length of a forced carry cascade",
        steps,
        series,
        "exact match",
        log_x=True,
        ylim=(-0.03, 1.03),
        ordered=True,
        note="Cascades run from the units over so many columns; the test set is uniform and has few long ones.",
    )
    return FigureOf("cascades", picture.title, [picture], title)


def _classes(metrics: Metrics, title: str) -> list[FigureOf]:
    steps, by_class = metrics["evaluation/step"], metrics["evaluation/accuracy_by_class"]
    series = {name: by_class[..., g] for g, name in enumerate(CLASSES) if np.isfinite(by_class[..., g]).any()}
    picture = Lines(
        "Exact match by carry class",
        steps,
        series,
        "exact match",
        log_x=True,
        ylim=(-0.03, 1.03),
        ordered=True,
        note="S0: no carry. S1: carries, no cascade. S2 to S5: a cascade over 1, 2, 3, and 4 or more columns.",
    )
    return [FigureOf("classes", "Exact match by carry class", [picture], title)] if series else []


# --- an analysis ------------------------------------------------------------------------------------------


@analyse_task.register
def _(task: Addition, trained: Trained, lane: int, keys: str | None) -> Report:
    """Measure all lanes by digit, carry class and cascade, and find what each part of one network is for."""
    no_keys(task, keys)
    network, subject = trained.networks[lane], trained.subject(lane)
    measured = [jax.device_get(_measure(n.params, n.model, task, n.data)) for n in trained.networks]
    lanes = [measures.flat(declared(task), values) for values in measured]
    quality, parts = (
        measures.table(
            title, lanes, lane, trained.heading(lane), measures.explained(shown, lanes[lane], measured[lane]), note
        )
        for title, shown, note in (
            (
                "How good it is by carries",
                [m for m in declared(task) if m.unit == "fraction"],
                _counts(task, network),
            ),
            ("Parts of the loss of each digit", [m for m in declared(task) if m.unit == "nats"], ""),
        )
    )
    figures = _training_figures(task, trained, lane, _plateaus(task, trained.metrics))
    if not figures:
        figures = [*recorded_figures(trained), *_of_state(task, measured[lane], network, subject)]
    numbers, words = dict(lanes[lane]), ["Ablation effects are not defined for this architecture."]
    if structure.is_transformer(network.model):
        effects, words = _ablate(task, network)
        numbers |= {
            f"ablation.{component.label}.{digit}": float(effects.loss[i, r])
            for i, component in enumerate(effects.components)
            for r, digit in enumerate(task.answer_names)
        }
        figures.append(_ablation_figure(task, effects, network, subject))
    title = "What each part is for, by mean ablation"
    text = "\n\n".join([as_text(quality), as_text(parts), "\n".join([title, *words])])
    return Report.of(text, numbers, [Text(title, words), *figures, parts], [quality])


def _counts(task: Addition, network: Network) -> str:
    """Return of how many problems a network's accuracies are, by carry class and by cascade."""
    problems, forced = network.data.lane["test"], network.data.lane["cascades"]
    counts = np.bincount(np.asarray(task.features(problems).kind), minlength=len(CLASSES))
    classes = ", ".join(f"{count:,} in {name}" for name, count in zip(CLASSES, counts, strict=True) if count)
    return f"Of {len(problems):,} test problems: {classes}. Of {forced.shape[1]:,} problems with each forced cascade."


def _of_state(task: Addition, values: Mapping[str, np.ndarray], network: Network, subject: str) -> list[FigureOf]:
    """Describe the digits predicted by one state alone, where nothing is known of its training."""
    offsets = Bars(
        "Mean probability by offset from the naive digit",
        [network.step],
        {name: values["offset"][None, r] for r, name in enumerate(task.answer_names)},
        [str(d) for d in range(task.base)],
        xlabel="offset",
        ylabel="mean probability",
        note="The naive digit leaves the carry out; the correct one is 0 or, with a carry in, 1 away.",
    )
    confusion = _confusion(task, np.array([network.step]), values["confusion"][None], subject)
    return [FigureOf("offsets", offsets.title, [offsets], subject), confusion]


def _ablate(task: Addition, network: Network) -> tuple[ablation.Effects, list[str]]:
    operands = task.mixed_problems(jax.random.key(1), _EXAMPLES)
    model = network.model
    layers = range(structure.layers(model)) if structure.has_neurons(model) else ()
    groups = [neuron_groups(network, operands, i) for i in layers]
    effects = ablation.measure(network, operands, ablation.components(network, groups))
    return effects, ablation.sentences(task, effects)


def _ablation_figure(task: Addition, effects: ablation.Effects, network: Network, subject: str) -> FigureOf:
    """Describe the components of the largest effect, by answer digit and by carry class on one scale."""
    largest = np.max(effects.loss, axis=1)
    order = np.argsort(-largest)[:_COMPONENTS]  # Effects that are not finite come last.
    # Where nothing is noticeable, the largest effects are shown all the same.
    shown = np.sort(order[: max(5, int(np.sum(largest[order] > ablation.NOTICEABLE)))])
    labels = [effects.components[i].label for i in shown]
    values = {"by answer digit": effects.loss[shown], "by carry class": effects.by_class[shown]}
    everything = np.concatenate(list(values.values()), axis=1)
    reach = float(np.max(np.abs(everything[np.isfinite(everything)]), initial=0)) or 1.0
    columns = {"by answer digit": (task.answer_names, "answer digit"), "by carry class": (CLASSES, "carry class")}
    pictures = [
        HeatMaps(
            f"Rise of the loss {name}",
            [network.step],
            {name: rise[None]},
            labels,
            columns[name][0],
            xlabel=columns[name][1],
            unit="rise of the loss, nats",
            limits=(-reach, reach),
            diverging=True,
            power=0.5,
            numbers=True,
            least=5e-3,
        )
        for name, rise in values.items()
    ]
    note = "Each part's activation is replaced by its mean over problems. Those of the largest effect."
    return FigureOf("ablation", "Ablation effects", pictures, subject, note)
