"""Train very small transformers on addition, and find out what they learn, when, and how to prove it.

Rooms: `tasks` (what to learn), `model`, `losses`, `optimizers`, `train` (the loop), `runs` (the run
folder), `figures`, `cli`. Axis letters, the same everywhere: S lanes (seeds), B batch, T tokens,
R positions read, D model, H heads, K head, F mlp, V vocabulary, P modulus, L layers.
"""

__version__ = "0.1.0"
