"""Is a network that multiplies mod P simpler in the characters of multiplication or in those of addition?

The same networks are measured in both: how concentrated the embedding is, how many key frequencies it has, how many
neurons are tuned to one, and what is explained of the logits. Expected: a few frequencies in the multiplicative
characters, waves of the discrete logarithm, and no structure in the additive ones. Published for one network mod 113:
Gini of W_E .58 against .07, 4 key frequencies, 96.9 % of the neurons tuned to one. `quick` takes two minutes on two
cores, `debug` seconds.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from jaxadd.analysis import fourier
from jaxadd.analysis.measures import EXPLAINED
from jaxadd.analysis.modular import bases
from jaxadd.analysis.modular.problem import as_if
from jaxadd.cli.experiment import Findings, Session, main
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer, structure
from jaxadd.optim.optimizers import AdamW
from jaxadd.pictures import Bars, FigureOf
from jaxadd.runs.summary import LEARNED, step_of
from jaxadd.tables import spread, table
from jaxadd.tasks import Modular
from jaxadd.tasks.modular import CyclicProduct, additive, multiplicative
from jaxadd.views import figures

# Of one network that multiplies mod 113, whose settings are not published, multiplicative and additive.
PUBLISHED = {"gini_W_E": ("0.58", "0.07"), "key_frequencies_embedding": ("4", ""), "neurons_explained": ("0.969", "")}
ROWS = {
    "gini_W_E": "Gini of W_E",
    "gini_W_L": "Gini of W_L",
    "key_frequencies_embedding": "key frequencies, by the embedding",
    "key_frequencies_neurons": "key frequencies, by the neurons",
    "neurons_explained": f"neurons tuned to one frequency (> {EXPLAINED})",
    "neuron_variance_explained": "neuron variance explained by one frequency",
    "logit_variance_explained": "logit variance explained",
    "incorrect_logits_explained": "of the logits of incorrect classes",
}
PRESETS = {
    "quick": RunConfig(
        task=Modular(operation="multiply"),
        optimizer=AdamW(lr=1e-2, weight_decay=3.0),
        steps=500,
        seeds=(0, 1, 2, 3, 4),
    ),
    "debug": RunConfig(
        task=Modular(p=11, operation="multiply", train_fraction=0.5),
        model=Transformer(d_model=16, heads=2, d_mlp=32),
        optimizer=AdamW(lr=1e-2),
        steps=40,
        seeds=(0, 1),
    ),
}


def conduct(config: RunConfig, session: Session) -> Findings:
    """Train the networks and measure them in both characters."""
    task = config.task
    if not isinstance(task, Modular) or task.operands != 2:
        raise UserError(f"this experiment compares characters mod P, of two operands; got {task.title}")
    run = session.train(config, "networks")
    groups = {"multiplicative": multiplicative(task.p), "additive": additive(task.p)}
    measured = {kind: [bases.measures(one, group) for one in run.networks()] for kind, group in groups.items()}
    cells = [("measure", *groups, "published")]
    for name, words in ROWS.items():
        if name in measured["additive"][0]:
            form = "{:.0f}" if name.startswith("key") else "{:.3f}"
            row = (spread([lane[name] for lane in lanes], form) for lanes in measured.values())
            cells.append((words, *row, " against ".join(filter(None, PUBLISHED.get(name, ())))))
    steps = spread([lane[step_of(LEARNED["test"])] for lane in run.summary["lanes"]])
    text = (
        f"{task.title}, {len(config.seeds)} seeds; test accuracy 99 % at step {steps}\nmedian (range)\n{table(cells)}"
    )
    networks = run.networks()
    drawn = FigureOf(
        "spectra", "The embedding in both characters", _spectra(networks[0], groups, measured), run.title
    )
    return Findings({"spectra": figures.render(drawn)}, text)


def _spectra(
    network: Network, groups: Mapping[str, CyclicProduct], measured: Mapping[str, Sequence[Mapping[str, float]]]
) -> list[Bars]:
    """Describe the norms of the embedding of one network by frequency, a picture for each group."""
    pictures = []
    for kind, group in groups.items():
        problem = as_if(network.task, group)
        embedding = problem.of_elements(structure.token_vectors(network.params, network.model))
        norms = np.asarray(fourier.norms(embedding, 0, group.orders))
        keys = fourier.frequencies(fourier.keys_of_embedding(embedding, orders=group.orders))
        names = fourier.names(group.orders)
        pictures.append(
            Bars(
                f"{kind} characters, seed {network.seed}",
                [network.step],
                {"norm": norms[None]},
                ["0", *names],
                xlabel="frequency k",
                ylabel="norm of W_E",
                highlight=[names[k - 1] for k in keys] if len(keys) <= 12 else [],
                note=f"Gini {measured[kind][0]['gini_W_E']:.2f}.",
            )
        )
    return pictures


if __name__ == "__main__":
    sys.exit(main(__doc__, PRESETS, conduct))
