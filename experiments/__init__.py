"""One module per question; run one with `python -m experiments.NAME`, and add --help for its options."""
