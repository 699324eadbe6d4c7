"""Figures of one network that multiplies in a finite group: what is in each irrep, and its neurons."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxadd.analysis.group.declarations import PARTS
from jaxadd.analysis.group.measured import NOTHING, Measured
from jaxadd.analysis.group.neurons import Neurons
from jaxadd.analysis.measures import EXPLAINED
from jaxadd.analysis.report import caution
from jaxadd.pictures import Bars, FigureOf, HeatMaps, Histogram, Picture

NAMED = 8
"""Irreps with a colour of their own."""
_LISTED = 16  # irreps in a table or map


def shown(state: Measured) -> list[int]:
    """Return the irreps that are listed: those of the largest logit similarity, in the order of all."""
    similarity = np.nan_to_num(state.values["logit_similarity"])
    return sorted(np.argsort(-similarity, kind="stable")[:_LISTED].tolist())


def irreps(state: Measured, over: Mapping[str, np.ndarray], steps: np.ndarray, subject: str) -> FigureOf:
    """Describe how much of the logits, weights and neurons is in each irrep."""
    names, listed = [irrep.name for irrep in state.irreps], shown(state)
    said = caution(state.values, "irreps")
    by_step = lambda name: np.asarray(over[name]).reshape(len(steps), -1)
    parts = {name: words for name, words in PARTS.items() if name in over}
    pictures: list[Picture] = [
        Bars(
            "Similarity of the logits to each irrep",
            steps,
            {"logits": by_step("logit_similarity")},
            names,
            xlabel="irrep",
            ylabel="cosine",
            highlight=state.key_names,
            note=f"{said.capitalize()}." if said else "",
        ),
        HeatMaps(
            "What is in each irrep",
            steps,
            {"fraction": np.stack([by_step(name)[:, listed] for name in parts], axis=2)},
            [names[k] for k in listed],
            list(parts.values()),
            ylabel="irrep",
            unit="fraction",
            numbers=True,
            least=5e-4,
            limits=(0, 1),
            power=0.5,
            note="Of the matrices' squares, and of the variance of all neurons as functions of a, b or the answer.",
        ),
    ]
    return FigureOf("irreps", "Irreps", pictures, subject)


def single_neurons(neurons: Neurons, names: Sequence[str], step: int, subject: str) -> FigureOf:
    """Describe neurons by both accounts: the irrep that explains them, and the cosets that they read."""
    kinds, counts = np.unique(neurons.irrep, return_counts=True)
    common = [k for k in kinds[np.argsort(-counts, kind="stable")] if k >= 0][:NAMED]
    edges = np.linspace(0, 1, 41)
    best = neurons.explained.max(axis=1)
    parts = {f"none: {np.sum(neurons.irrep < 0)}": neurons.irrep < 0}
    parts |= {f"{names[k]}: {np.sum(neurons.irrep == k)}": neurons.irrep == k for k in common}
    if (rest := (neurons.irrep >= 0) & ~np.isin(neurons.irrep, common)).any():
        parts[f"others: {rest.sum()}"] = rest
    pictures: list[Picture] = [
        Histogram(
            "Neurons by their best irrep",
            edges,
            {name: np.histogram(best[part], edges)[0] for name, part in parts.items()},
            xlabel="fraction of variance explained by the neuron's best irrep",
            ylabel="neurons",
            threshold=EXPLAINED,
        )
    ]
    rows, columns = np.unique(neurons.irrep), np.unique(neurons.subgroup)
    both = np.array([[np.sum((neurons.irrep == i) & (neurons.subgroup == j)) for j in columns] for i in rows])
    pictures.append(
        HeatMaps(
            "Neurons by irrep and by cosets",
            [step],
            {"neurons": both[None].astype(np.float32)},
            [NOTHING if k < 0 else names[k] for k in rows],
            [NOTHING if k < 0 else neurons.classes[k].name for k in columns],
            xlabel="largest subgroups whose cosets are read",
            ylabel="irrep",
            unit="neurons",
            numbers=True,
        )
    )
    return FigureOf("neurons", "What single neurons read", pictures, subject)
