"""Everything that is measured and drawn of one trained network, by task: what the command `analyse` shows."""

from jaxadd.examine.addition import examine_addition
from jaxadd.examine.examination import Examination
from jaxadd.examine.modular import RULES, examine_modular

__all__ = ["RULES", "Examination", "examine_addition", "examine_modular"]
