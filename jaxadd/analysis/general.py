"""What is shown of any network, whatever its task: attention, circuits, composition, attribution and logit lens."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxadd.analysis import attribution, circuits
from jaxadd.analysis.trained import Report, Trained
from jaxadd.errors import UserError
from jaxadd.models import Network, structure
from jaxadd.pictures import Block, FigureOf, HeatMaps, Level, Text
from jaxadd.types import Batch

_TOKENS = 200  # of a vocabulary, the most that circuits are drawn of


def report(trained: Trained, lane: int, count: int) -> Report:
    """Return what is shown of one lane, averaged over `count` examples of its task."""
    network = trained.networks[lane]
    if not structure.is_transformer(network.model):
        name = type(network.config).__name__
        sentence = (
            f"Attention, circuits, composition, attribution and the logit lens are not defined for {name} networks."
        )
        return Report.of(sentence, blocks=[Text("What is not defined", [sentence])])
    batch = network.task.examples(network.data, jax.random.key(1), count)
    subject = trained.subject(lane)
    numbers: dict[str, float] = {}
    blocks: list[Block] = [attention(trained, lane, batch)]
    undefined: list[str] = []
    for describe in (
        lambda: ({}, circuit_figures(network, subject)),
        lambda: ({}, composition(network, subject)),
        lambda: contributions(network, batch, subject),
    ):
        try:
            measured, figures = describe()
            numbers |= measured
            blocks += figures
        except UserError as error:  # The architecture has no such thing; the others may have.
            sentence = f"{str(error)[0].upper()}{str(error)[1:]}."
            if sentence not in undefined:
                undefined.append(sentence)
    if undefined:
        blocks.append(Text("What is not defined", undefined))
    return Report.of("\n".join(undefined), numbers=numbers, blocks=blocks)


def attention(trained: Trained, lane: int, batch: Batch) -> FigureOf:
    """Describe the mean attention of every head from where answers are read, at all known states."""
    network = trained.networks[lane]
    model, task = network.model, network.task
    steps, means = trained.over_states(lane, lambda w: circuits.mean_attention(w, model, batch.inputs))
    maps = np.stack([np.asarray(mean) for mean in means])  # [E, L, H, R, T]
    heads = {f"L{i}H{h}": maps[:, i, h] for i, h in np.ndindex(maps.shape[1:3])}
    title = "Mean attention from where answers are read"
    picture = HeatMaps(
        title,
        steps,
        heads,
        task.answer_names,
        task.position_names,
        xlabel="to",
        ylabel="from",
        unit="mean attention",
        limits=(0, 1),
    )
    return FigureOf("attention", title, [picture], trained.subject(lane))


def circuit_figures(network: Network, subject: str) -> list[FigureOf]:
    """Describe what every head attends to and what it then writes: QK and OV between tokens, a figure for a layer."""
    model = network.model
    vocabulary, classes = model.sizes.vocabulary or 0, model.sizes.classes
    tokens = network.task.token_names[:_TOKENS]
    names = network.task.token_names if classes == vocabulary else tuple(map(str, range(classes)))
    names = names[:_TOKENS]
    note = "" if vocabulary <= _TOKENS else f"Of the first {_TOKENS} of {vocabulary:,} tokens."
    positions = "" if structure.transformer(model).positions == "none" else "Positions change these scores."
    norm = " The scale of the norms is left out." if structure.has_norms(model) else ""
    figures = []
    for i in range(structure.layers(model)):
        qk = np.asarray(circuits.qk(network.params, model, i))[:, :_TOKENS, :_TOKENS]
        ov = np.asarray(circuits.ov(network.params, model, i))[:, :_TOKENS, :_TOKENS]
        pictures = [
            HeatMaps(
                "QK: attention scores between the embeddings of tokens",
                [network.step],
                {f"L{i}H{h}": scores[None] for h, scores in enumerate(qk)},
                tokens,
                tokens,
                xlabel="key",
                ylabel="query",
                unit="score",
                diverging=True,
                power=0.5,
                note=f"{positions}{norm} {note}".strip(),
            ),
            HeatMaps(
                "OV: direct effect on the logits of a token attended to",
                [network.step],
                {f"L{i}H{h}": effects[None] for h, effects in enumerate(ov)},
                tokens,
                names,
                xlabel="class",
                ylabel="token attended to",
                unit="logit",
                diverging=True,
                note=f"{norm} {note}".strip(),
            ),
        ]
        several = structure.layers(model) > 1
        name, title = (
            (f"circuits_layer{i + 1}", f"Circuits of layer {i + 1}") if several else ("circuits", "Circuits")
        )
        figures.append(FigureOf(name, title, pictures, subject))
    return figures


def composition(network: Network, subject: str) -> list[FigureOf]:
    """Describe how much of what each part writes later parts read; nothing where no part comes after another."""
    scores = circuits.composition(network.params, network.model)
    writers, readers = circuits.composition_labels(network.model)
    after = circuits.composable(network.model)
    rows, columns = np.flatnonzero(after.any(1)), np.flatnonzero(after.any(0))
    if not rows.size:
        return []
    where = np.ix_(rows, columns)
    shown = [np.asarray(x)[where][None] for x in scores]
    labels = [writers[i] for i in rows], [readers[i] for i in columns]
    chance = float(1 / np.sqrt(structure.transformer(network.model).d_model))
    pictures = [
        HeatMaps(
            "Composition scores",
            [network.step],
            {"score": shown[0]},
            *labels,
            unit="composition score",
            levels=[Level(chance, "chance")],
            note="‖W R‖ / (‖W‖ ‖R‖) of what one part writes and another reads.",
            xlabel="reads",
            ylabel="writes",
            numbers=True,
        ),
        HeatMaps(
            "Distance from chance",
            [network.step],
            {"deviation": shown[1]},
            *labels,
            unit="standard deviations",
            diverging=True,
            power=0.5,
            note="How far the squared score lies from its mean for parts that are independent of each other.",
            xlabel="reads",
            ylabel="writes",
            numbers=True,
        ),
    ]
    return [FigureOf("composition", "Composition", pictures, subject)]


def contributions(network: Network, batch: Batch, subject: str) -> tuple[dict[str, float], list[FigureOf]]:
    """Return the numbers of direct logit attribution and of the logit lens, and a figure of each."""
    numbers: dict[str, float] = {}
    answers = network.task.answer_names
    parts = attribution.attribution_by_digit(network.params, network.model, batch)
    lens = attribution.lens_by_digit(network.params, network.model, batch)
    points = [name.replace("blocks.", "L").replace(".hook_resid_", " ") for name in lens]
    for name, values in parts.items():
        numbers |= _by_answer(f"attribution.{name}", values, answers)
    for name, score in zip(points, lens.values(), strict=True):
        numbers |= _by_answer(f"lens_loss.{name.replace(' ', '.')}", score.loss, answers)
    attributed = HeatMaps(
        "Direct logit attribution",
        [network.step],
        {"correct logit minus mean of the others": np.stack([np.asarray(x) for x in parts.values()])[None]},
        list(parts),
        answers,
        xlabel="answer",
        unit="correct logit minus\nmean of the others, nats",
        diverging=True,
        power=0.5,
        numbers=True,
        least=5e-4,
        note="Direct contributions only: what goes through later heads and neurons is theirs.",
    )
    read_off = HeatMaps(
        "Logit lens",
        [network.step],
        {"loss": np.stack([np.asarray(score.loss) for score in lens.values()])[None]},
        points,
        answers,
        xlabel="answer",
        unit="loss, nats",
        log=True,
        numbers=True,
        note="The loss when logits are read off the residual stream at points on its way.",
    )
    return numbers, [
        FigureOf("attribution", "Direct logit attribution", [attributed], subject),
        FigureOf("lens", "Logit lens", [read_off], subject),
    ]


def _by_answer(name: str, values: jax.Array, answers: Sequence[str]) -> dict[str, float]:
    if len(answers) == 1:
        return {name: float(values[0])}
    return {f"{name}.{answer}": float(x) for answer, x in zip(answers, values, strict=True)}
