"""A full disk is told from other errors, in one line."""

import errno

import pytest
from absl import flags

from launch import command_line
from poolformer_jax.disk_full import DiskFullError, disk_full_errors, is_disk_full
from poolformer_jax.files import write_whole

FULL = OSError(errno.ENOSPC, "No space left on device")


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (chained(ValueError("cannot save"), FULL), True),
        # Of Orbax's and of ArrayRecord's writers, which are in C++.
        (ValueError("RESOURCE_EXHAUSTED: Failed: No space left on device [os_error_code]"), True),
        (RuntimeError("write() failed: No space left on device; writing train"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
        (chained(KeyError("x"), ValueError("y")), False),
    ],
)
def test_errors_of_a_full_disk(error, expected):
    assert is_disk_full(error) == expected


def test_what_is_kept_is_said_once(tmp_path):
    with (
        pytest.raises(DiskFullError, match=r"new is full \([\d.,]+ MB free\); all is kept: make r"),
        disk_full_errors(tmp_path, "something is kept"),
        disk_full_errors(tmp_path / "new", "all is kept"),
    ):
        raise ValueError("of some library") from FULL
    with pytest.raises(KeyError), disk_full_errors(tmp_path, "all is kept"):
        raise KeyError("another")


def test_a_program_ends_in_one_line_whatever_it_was_writing(tmp_path, monkeypatch):
    def fsync(file):
        raise FULL

    monkeypatch.setattr("poolformer_jax.files.os.fsync", fsync)
    with pytest.raises(SystemExit) as end:
        command_line.call(lambda argv: write_whole(tmp_path / "x", "1"), flags.FlagValues(), [])
    assert end.value.code == (
        f"error: [Errno {errno.ENOSPC}] No space left on device: '{tmp_path / 'x'}'; make room, "
        "and run the same command again"
    )
    assert not list(tmp_path.iterdir())
