"""Certificates: a network is right on every problem of a space, or a problem that it gets wrong.

`certify.certify` chooses among running every problem (`exhaustive`), sound bounds for addition of any length
(`bounds`) and a search for errors (`search`); `check.check` verifies a certificate with code of its own.
"""
