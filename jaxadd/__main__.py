"""The `jaxadd` command as `python -m jaxadd`."""

import sys

from jaxadd.cli.main import main

sys.exit(main())
