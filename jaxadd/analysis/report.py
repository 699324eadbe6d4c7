"""Reports: what is measured and shown of trained networks, by task, as plain data.

Two questions are answered for every task; a task that registers more gets more:

- `summarize`: what a finished run shows at once, registered with `@summarize_task.register`;
- `analyse`: what `jaxadd analyse` shows, registered with `@analyse_task.register`.

What holds for any network (how good it is, its curves, attention, circuits, attribution, lens) is here and in
`analysis.general`; what is specific to a task is in `analysis.modular`, `analysis.addition` and so on.
"""

import functools
from collections.abc import Mapping
from typing import Any

from jaxadd.analysis import general, performance
from jaxadd.analysis.trained import Report, Trained, as_text
from jaxadd.errors import UserError
from jaxadd.pictures import FigureOf, Lines, Table, Text
from jaxadd.tasks import Task
from jaxadd.tasks.listed import Listed
from jaxadd.types import Metrics

__all__ = ["Report", "Trained", "analyse", "analyse_task", "summarize", "summarize_task", "training_figures"]

_GENERALISES = 0.9  # Accuracy from which logits are taken for computed, not memorised.
_EXAMPLES = 2000  # to average attention and attribution over


def training_figures(metrics: Metrics, title: str, *, log_steps: bool = True) -> list[FigureOf]:
    """Describe what all runs have: curves of loss and accuracy, and norms of gradient, update and weights.

    Args:
      metrics: what was recorded; what it lacks is left out.
      title: of the run.
      log_steps: draw steps on a logarithmic axis.
    """
    if "step" not in metrics:
        return []

    def lines(title: str, names: Mapping[str, str], ylabel: str, **more: Any) -> list[Lines]:
        series = {words: metrics[name] for name, words in names.items() if name in metrics}
        return [Lines(title, metrics["step"], series, ylabel, log_x=log_steps, **more)] if series else []

    curves = lines("loss", {"train_loss": "train", "test_loss": "test"}, "cross-entropy, nats", log_y=True)
    curves += lines(
        "accuracy", {"train_accuracy": "train", "test_accuracy": "test"}, "fraction correct", ylim=(-0.03, 1.03)
    )
    norms = [
        picture
        for name, words in (("grad_norm", "gradient"), ("update_norm", "update"), ("weight_norm", "weights"))
        for picture in lines(f"norm of the {words}", {name: words}, "Euclidean norm", log_y=name != "weight_norm")
    ]
    figures = (FigureOf("curves", "Loss and accuracy", curves, title), FigureOf("norms", "Norms", norms, title))
    return [figure for figure in figures if figure.pictures]


def summarize(trained: Trained) -> Report:
    """Return what a finished run shows at once."""
    report = summarize_task(trained.networks[0].task, trained)
    return Report.of(report.text, report.numbers, [*training_figures(trained.metrics, trained.title), *report.blocks])


@functools.singledispatch
def summarize_task(task: Task, trained: Trained) -> Report:
    """Return what a finished run of a task shows beside its curves; nothing where nothing is registered."""
    return Report("")


def analyse(trained: Trained, lane: int = 0, keys: str | None = None) -> Report:
    """Return everything that is measured and shown of trained networks.

    How good they are comes first, then what is specific to the task, then what holds for any network.

    Args:
      trained: the networks.
      lane: the one that is drawn, and whose numbers are reported.
      keys: how key frequencies are chosen, for a task that has them: a rule of `analysis.modular.measured.RULES`, or
        a list such as "3,6,23".

    Raises:
      UserError: `keys` cannot be read, or the task has no key frequencies.
    """
    network = trained.networks[lane]
    performances = [performance.of(one) for one in trained.networks]
    tables = performance.tables(trained, performances, lane)
    special = analyse_task(network.task, trained, lane, keys)
    usual = general.report(trained, lane, _EXAMPLES)
    text = [*map(as_text, tables), *filter(None, (special.text, usual.text))]
    numbers = performance.numbers(performances[lane], network.task.answer_names)
    curves = training_figures(trained.metrics, trained.title)
    in_words, figures, details = (
        [block for block in special.blocks if isinstance(block, kind)] for kind in (Text, FigureOf, Table)
    )
    blocks = [*tables, *special.quality, *in_words, *curves, *figures, *usual.blocks, *details]
    return Report.of("\n\n".join(text), {**numbers, **special.numbers, **usual.numbers}, blocks)


@functools.singledispatch
def analyse_task(task: Task, trained: Trained, lane: int, keys: str | None) -> Report:
    """Return what is specific to a task, as for `analyse`; by default what was recorded in training."""
    no_keys(task, keys)
    return Report.of(blocks=recorded_figures(trained))


def no_keys(task: Task, keys: str | None) -> None:
    """Raise UserError where key frequencies are asked for and the task has none."""
    if keys is not None:
        raise UserError(
            f"key frequencies are those of a sum or difference mod P, and this is {task.question}; leave --keys out"
        )


def caution(values: Mapping[str, Any], what: str) -> str:
    """Return a sentence where a network does not generalise, so that what its logits hold says little; "" elsewhere.

    Args:
      values: measures of the network, with "test_accuracy" or, where the split is not known, "all_accuracy".
      what: what logits are similar to, such as "irreps".
    """
    name, pairs = ("test_accuracy", "the test pairs") if "test_accuracy" in values else ("all_accuracy", "all pairs")
    correct = float(values[name])
    if not correct < _GENERALISES:
        return ""
    return (
        f"caution: {performance.percent(correct)} of {pairs} are correct, and logits that are memorised are similar "
        f"to many {what} without being computed by them"
    )


def label_noise(task: Listed) -> list[str]:
    """Return a sentence on which labels the measures count, where some that are trained on are wrong."""
    if not task.label_noise:
        return []
    return [
        f"label noise: {100 * task.label_noise:.3g} % of the train labels are wrong; loss and accuracy count the "
        "labels that are trained on, and full, restricted and excluded loss the right answers"
    ]


def recorded_figures(trained: Trained) -> list[FigureOf]:
    """Describe what was recorded in training of each answer and by the task's measures, whatever they are."""
    metrics, answers = trained.metrics, trained.networks[0].task.answer_names
    pictures = []
    for name, values in metrics.items():
        evaluated = name.startswith("evaluation/")
        words = name.removeprefix("evaluation/").replace("_", " ").replace("position loss", "loss of each answer")
        axis = "evaluation/step" if evaluated else "step"
        by_answer = values.ndim == 3 and values.shape[2] == len(answers) > 1
        if name == axis or not (by_answer or (evaluated and values.ndim == 2)):
            continue
        series = {answer: values[..., r] for r, answer in enumerate(answers)} if by_answer else {words: values}
        unit = "nats" if "loss" in name else ""
        pictures.append(Lines(words, metrics[axis], series, unit, log_x=True, log_y=bool(unit)))
    return [FigureOf("recorded", "Recorded in training", pictures, trained.title)] if pictures else []
