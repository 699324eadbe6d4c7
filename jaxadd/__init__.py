"""Train very small transformers on addition, and find out what they learn, when, and how to prove it.

Rooms: `tasks` (what to learn), `model`, `losses`, `optimizers`; `config` (all that determines a run), `train`
(the compiled chunk), `fit` (the loop on the host); `runs` (the run folder), `checkpoints`; `report`, `figures`,
`cli` (what a person sees). Axis letters, the same everywhere: S lanes (seeds), B batch, T tokens,
R positions read, D model, H heads, K head, F mlp, V vocabulary, P modulus, L layers.
"""

__version__ = "0.1.0"
