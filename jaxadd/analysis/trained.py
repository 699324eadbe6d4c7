"""What a report is about, trained networks and their training, and the report itself, as plain data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxadd.lanes import take
from jaxadd.models import Network
from jaxadd.pictures import Block, FigureOf, Table, Text, thin
from jaxadd.tables import table
from jaxadd.types import Metrics, Params

FRAMES = 40  # of what evolves


class Trained(NamedTuple):
    """The trained networks of one task, and what is known of their training.

    Attributes:
      networks: one per lane, all of the same model and task.
      title: for figures.
      metrics: what was recorded in training, see `training.loop.Result`; empty where that is not known.
      steps: `[E]`, the steps whose states are known, ascending; empty for a checkpoint from elsewhere.
      histories: for each lane the parameters at these steps, leaves with a leading E axis; empty where unknown.
      seed_known: whether the networks were trained with their seeds; False for a file that states none.
    """

    networks: tuple[Network, ...]
    title: str
    metrics: Metrics = {}  # noqa: RUF012 (nothing writes to it; a NamedTuple has no default factory)
    steps: np.ndarray = np.zeros(0, int)
    histories: tuple[Params, ...] = ()
    seed_known: bool = True

    @property
    def evolves(self) -> bool:
        """Whether more than one state is known."""
        return len(self.steps) > 1 and bool(self.histories)

    def subject(self, lane: int) -> str:
        """What a figure of one lane is of."""
        return ", ".join(filter(None, (self.networks[lane].title, self.name(lane))))

    def name(self, lane: int) -> str:
        """The seed of one network, that of its split where it is another, and its step, as far as they are known.

        Of a checkpoint from elsewhere nothing may be known, and the name is empty.
        """
        network = self.networks[lane]
        parts, split = [], getattr(network.task, "split_seed", None)
        if self.seed_known:
            parts += [f"seed {network.seed}"] + [f"split seed {split}"] * (split not in (None, network.seed))
        if network.step or self.metrics or len(self.steps):
            parts.append(f"step {network.step:,}")
        return ", ".join(parts)

    def heading(self, lane: int) -> str:
        """What stands over the numbers of one network in a table: its seed, where that is known."""
        network = self.networks[lane]
        return f"seed {network.seed}" if self.seed_known else "value"

    def over_states(
        self, lane: int, function: Callable[[Params], Any], most: int = FRAMES
    ) -> tuple[np.ndarray, list[Any]]:
        """Compute a compiled function of the parameters at the known states of a lane, the network itself last.

        Args:
          lane: of the networks.
          function: of the parameters of one network.
          most: states, evenly spread.

        Returns:
          the steps `[E]`, and the function's values.
        """
        network = self.networks[lane]
        steps, states = [network.step], [network.params]
        if self.evolves and most > 1:
            at = [i for i in thin(len(self.steps), most) if self.steps[i] < network.step]
            steps = [*(int(self.steps[i]) for i in at), network.step]
            states = [*(take(self.histories[lane], i) for i in at), network.params]
        return np.asarray(steps), [function(params) for params in states]


class Report(NamedTuple):
    """What is known of trained networks.

    Attributes:
      text: printed.
      numbers: plain values by documented names, for JSON.
      figures: drawn as PNG.
      blocks: of the page, in order; the figures among them.
      quality: tables on how good the networks are, which the page shows before the blocks.
    """

    text: str
    numbers: Mapping[str, Any] = {}
    figures: Sequence[FigureOf] = ()
    blocks: Sequence[Block] = ()
    quality: Sequence[Table] = ()

    @classmethod
    def of(
        cls,
        text: str = "",
        numbers: Mapping[str, Any] = {},
        blocks: Sequence[Block] = (),
        quality: Sequence[Table] = (),
    ) -> "Report":
        """Return a report whose figures are those among its blocks."""
        return cls(text, numbers, [block for block in blocks if isinstance(block, FigureOf)], blocks, quality)


def as_text(block: Table | Text) -> str:
    """Return a table or paragraphs as they are printed; a last column of definitions is left to the page."""
    if isinstance(block, Text):
        return "\n".join([block.title, *block.paragraphs])
    rows = [tuple(block.columns), *map(tuple, block.rows)]
    if rows[0][-1] == "definition":
        rows = [row[:-1] for row in rows]
    return "\n".join(filter(None, (block.title, block.note, table(rows))))
