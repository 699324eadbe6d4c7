"""Files that are whole or not there."""

import errno
import os

import pytest

from jaxadd.files import replacing


def test_a_disk_that_is_full_is_reported_with_the_path(tmp_path):
    def write():
        with replacing(tmp_path / "sweep.csv") as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"sweep\.csv could not be written: No space left on device"):
        write()
    assert not list(tmp_path.iterdir())
