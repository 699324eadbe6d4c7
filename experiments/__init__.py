"""One module per question; run one with `python -m experiments.NAME`, and add --help for its options."""

import sys

from jaxadd.cli.guard import end_at_once

if sys.argv[0] == "-m":  # Python is about to run one, and imports this package first.
    end_at_once()
