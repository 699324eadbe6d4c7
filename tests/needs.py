"""What a test needs beyond the project's own packages: it skips without it, or fails where that was not expected."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def need(name, available, reason):
    """Skip the test for want of something; fail where JAXADD_REQUIRED names it, as `.ci/run` does for what it has."""
    if not available:
        (pytest.fail if name in os.environ.get("JAXADD_REQUIRED", "").split() else pytest.skip)(reason)


def reference_data():
    """Return the folder of public networks and curves; skip where there is none beside the checkout."""
    folder = Path(os.environ.get("JAXADD_REFERENCE", ROOT.parent / "shared" / "data"))
    need("reference", folder.is_dir(), f"there is no reference data in {folder}; set JAXADD_REFERENCE")
    return folder
