"""Analysis: pure functions of (params, model, batch), and what is measured and claimed of each task's networks.

Any network: `performance`, `circuits`, `attribution`, `interventions`, `hypotheses`, `general`. Curves and spectra:
`plateaus`, `spikes`, `phases`, `fourier`. By task: `modular`, `addition`, `handwritten_digits`; importing this
package registers them in `report` and `claims`. `measures` is how a measure is declared.
"""

from jaxadd.analysis import addition, handwritten_digits, modular

__all__ = ["addition", "handwritten_digits", "modular"]
