"""What is measured and shown of a network that learns an operation mod P."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxadd.analysis import fourier, measures
from jaxadd.analysis.measures import Measure
from jaxadd.analysis.modular import declarations, pairs, progress
from jaxadd.analysis.modular.figures import embedding, order_in_words, pair_figures, single_neurons
from jaxadd.analysis.modular.measured import RULES, Measured, listed, measure
from jaxadd.analysis.phases import PHASES, Phases, phases
from jaxadd.analysis.report import analyse_task, caution, label_noise, no_keys, recorded_figures, summarize_task
from jaxadd.analysis.trained import Report, Trained, as_text
from jaxadd.pictures import FigureOf, Lines, Span, Text
from jaxadd.tables import spread
from jaxadd.tasks import Modular

_FEW = 10  # saved states, with fewer of which the end of a phase is known coarsely
_PHASE_SERIES = ("train_loss", "test_loss", "excluded_loss_train", "sum_of_squares")

# --- a finished run ---------------------------------------------------------------------------------------


@summarize_task.register
def _(task: Modular, trained: Trained) -> Report:
    """Return the first network's errors over all pairs."""
    return Report.of(blocks=pairs.errors(task, trained, 0))


# --- an analysis ------------------------------------------------------------------------------------------


@analyse_task.register
def _(task: Modular, trained: Trained, lane: int, keys: str | None) -> Report:
    """Measure all lanes in the characters of the operation's group and show one; without a group show its errors."""
    group = task.group
    if group is None or task.operands != 2:
        no_keys(task, keys)
        numbers, figures = pairs.history(task, trained, lane)
        sentence = (
            "Key frequencies and progress measures are defined for a sum or difference in a group, of two operands."
        )
        return Report.of(
            sentence,
            numbers,
            [
                Text("In short", [sentence]),
                *pairs.errors(task, trained, lane),
                *figures,
                *recorded_figures(trained),
            ],
        )
    states = [measure(network, keys) for network in trained.networks]
    state, subject = states[lane], trained.subject(lane)
    frequencies = fourier.frequencies(state.keys)
    listed_keys = lambda mask: listed(mask, group)
    used = lambda name: ", which the measures use" if name == state.chosen else ""
    words = [f"key frequencies by {name}{used(name)}: {listed_keys(mask)}" for name, mask in state.rules.items()]
    words += filter(None, [caution(state.numbers, "frequencies"), *label_noise(task)])
    if state.chosen not in RULES:
        words.append(f"key frequencies {state.chosen}: {listed_keys(state.keys)}")
    if group.name != "additive":
        orders = " × ".join(f"C{n}" for n in group.orders)
        words.insert(0, f"characters of the units mod {task.p}, {orders}, {order_in_words(group)}")
    figures = [*pairs.errors(task, trained, lane), *pair_figures(task, trained, lane, state)]
    graduated, maps = pairs.history(task, trained, lane)
    numbers = {**state.numbers, **graduated}
    figures += maps
    if state.activations is not None:
        of_neurons, drawn = single_neurons(task, trained, lane, state)
        numbers |= of_neurons
        figures.append(drawn)
    steps, norms = np.array([trained.networks[lane].step]), None
    if trained.evolves:
        over = [_over_training(trained, s, one) for s, one in enumerate(states)]
        ends = [phases(trained.steps, *(measured[name] for name in _PHASE_SERIES)) for measured in over]
        numbers |= {f"phase_{name}": end for name, end in ends[lane]._asdict().items()}
        words += [_end_of(what, [getattr(e, name) for e in ends]) for name, what in PHASES.items()]
        if len(trained.steps) < _FEW:
            words.append(f"ends of phases are coarse: only {len(trained.steps)} states were saved")
        names = fourier.names(group.orders)
        figures.append(_progress(trained, lane, over, ends[lane], frequencies, names))
        steps, norms = trained.steps, over[lane]["embedding_norm_k"]
    figures.append(embedding(state, steps, norms, subject))
    table = measures.table("Measures", [s.numbers for s in states], lane, trained.heading(lane), _listed(state))
    return Report.of("\n".join([*words, "", as_text(table)]), numbers, [Text("In short", words), *figures, table])


def _end_of(phase: str, steps: Sequence[int | None]) -> str:
    """Return a sentence on when a phase ended, and in how many lanes it did; None is a lane where it did not."""
    known = [step for step in steps if step is not None]
    if not known:
        return f"{phase} had not ended at the last saved state"
    lanes = f" in {len(known)} of {len(steps)} lanes," if len(known) < len(steps) else ""
    return f"{phase} ended{lanes} at step {spread(known)}"


# --- over training ----------------------------------------------------------------------------------------

_OVER_TRAINING: tuple[Measure, ...] = tuple(
    measure
    for measure in declarations.MEASURES
    if measure.panel or measure.name in (*_PHASE_SERIES, "embedding_norm_k")
)


def _over_training(trained: Trained, lane: int, state: Measured) -> dict[str, np.ndarray]:
    """Return a lane's measures at all known states, with its final key frequencies."""
    model = trained.networks[lane].model
    return jax.device_get(
        progress.over_states(trained.histories[lane], model, state.problem, state.keys, declarations=_OVER_TRAINING)
    )


def _progress(
    trained: Trained,
    lane: int,
    over: Sequence[Mapping[str, np.ndarray]],
    ends: Phases,
    frequencies: Sequence[int],
    names: Sequence[str],
) -> FigureOf:
    """Describe the measures over training, one picture for a panel, with the lane's phases."""
    spans, start = [], 0
    for i, (name, words) in enumerate(PHASES.items()):
        end = getattr(ends, name)
        if end is None and any(later is not None for later in ends[i + 1 :]):
            continue  # There was none: a network may generalise from the start.
        until = int(trained.steps[-1]) if end is None else end
        spans.append(Span(start, until, f"{words}, {'not ended' if end is None else f'to step {end:,}'}"))
        if end is None:
            break
        start = end
    pictures = measures.curves(_OVER_TRAINING, trained.steps, over, spans)
    if frequencies:
        single = {f"k = {names[k - 1]}": over[lane]["excluded_loss_k"][:, k - 1] for k in frequencies}
        one = Lines(declarations.ONE_FREQUENCY, trained.steps, single, "nats", log_x=True, log_y=True, spans=spans)
        pictures.insert(1, one)
    several = len(trained.networks) > 1
    note = f"Phases and single frequencies are those of seed {trained.networks[lane].seed}." if several else ""
    return FigureOf("measures", "Progress measures", pictures, trained.title, note)


def _listed(state: Measured) -> dict[str, Measure]:
    """Return the entries that the table lists: none that a figure shows, and of single frequencies the keys."""
    shown = ("logit_cosine_k", "embedding_norm_k", "sum_of_squares_of")
    declared = [measure for measure in declarations.ALL if measure.name not in shown]
    entries = measures.explained(declared, state.numbers, state.values, state.problem.axes)
    names = fourier.names(state.problem.orders)
    others = {f"excluded_loss_{name}" for name, key in zip(names, state.keys, strict=True) if not key}
    return {name: measure for name, measure in entries.items() if name not in others}
