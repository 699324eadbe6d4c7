"""Certificates: a network is right on every problem of a space, or a problem that it gets wrong.

`certify.certify` chooses among running every problem (`exhaustive`), sound bounds for addition of any length
(`bounds`, for `one_layer` and `two_layers`) and a search for errors (`search`). `check.check` verifies a certificate
with code of its own, in the modules whose names begin with `check`. Both stand on `forward`, the forward pass in
float64 with its allowance for float32, and on `rounding`.
"""
