"""Files that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from jaxadd.files import in_words, make_folder, replacing, write_text


def test_a_disk_that_is_full_is_reported_with_the_path(tmp_path):
    def write():
        with replacing(tmp_path / "sweep.csv") as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"sweep\.csv could not be written: No space left on device"):
        write()
    assert not list(tmp_path.iterdir())


def test_of_two_writers_at_once_the_last_wins_and_nothing_is_left(tmp_path):
    with replacing(tmp_path / "figure.png") as first, replacing(tmp_path / "figure.png") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "figure.png").read_text() == "first"  # The outer one is renamed last.
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(
    ("number", "name", "words"),
    [
        (errno.EROFS, "runs/a/.lock", "runs/a cannot be written to (read-only file system)"),
        (errno.EROFS, "runs/a/.metrics.npz.part", "runs/a/metrics.npz cannot be written to (read-only file system)"),
        (
            errno.EROFS,
            "a/replays/.0-9.part.k3_d9a1z.part",
            "a/replays/0-9 cannot be written to (read-only file system)",
        ),
        (errno.ENOSPC, "c/.00000030.part.orbax-tmp/x", "c/00000030 could not be written (no space left on device)"),
        (errno.EACCES, "runs/a", "runs/a cannot be written to (permission denied)"),
        (errno.ENOENT, "runs/a", "there is no runs/a"),
        (errno.ENOSPC, None, "no space left on device"),
        (errno.ENAMETOOLONG, "n", "n cannot be used (file name too long)"),
    ],
)
def test_an_error_of_the_system_is_said_in_words(number, name, words):
    assert in_words(OSError(number, os.strerror(number), name)) == words


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for act, path, words in (
        (lambda path: write_text(path, ""), tmp_path / "folder", f"{tmp_path}/folder is a folder; name a file"),
        (lambda path: write_text(path, ""), Path("."), ". is a folder; name a file"),
        (lambda path: write_text(path, ""), tmp_path / "none" / "a", f"there is no {tmp_path}/none/a"),
        (lambda path: write_text(path, ""), tmp_path / "file" / "a", f"{tmp_path}/file is a file where a folder "),
        (make_folder, tmp_path / "file" / "a" / "b", f"{tmp_path}/file is a file where a folder should be; "),
        (make_folder, tmp_path / "file", f"{tmp_path}/file is a file where a folder should be; move it away"),
        (make_folder, Path("/proc/x/y"), "/proc/x/y cannot be created: no folder can be created in /proc"),
        (lambda path: write_text(path, ""), Path("/proc/x"), "/proc/x could not be written: No such file"),
    ):
        with pytest.raises(OSError, match=r".") as caught:
            act(path)
        assert in_words(caught.value).startswith(words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
