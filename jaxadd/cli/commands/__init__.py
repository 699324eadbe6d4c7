"""The commands of the `jaxadd` program, a module each."""
