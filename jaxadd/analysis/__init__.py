"""Analysis: pure functions of (params, model, batch), and what is measured, shown and claimed of each task's networks.

General: `circuits`, `attribution`, `interventions`, `hypotheses`, `fourier`, `shelves`, `spikes`, `phases`. By task:
`modular`, `addition`; importing this package registers them in `report` and `claims`.
"""
