"""The command line: the `jaxadd` program with its commands, and the driver of experiments."""
