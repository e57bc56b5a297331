from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from outside.disk import limited_file_size, run_with_limited_file_size


def test_a_full_disk_takes_some_bytes_and_no_more(full_disk):
    with pytest.raises(OSError) as caught, (full_disk / "file").open("wb", buffering=0) as file:
        for _ in range(100):
            file.write(bytes(4096))
    assert caught.value.errno == errno.ENOSPC
    assert 0 < (full_disk / "file").stat().st_size <= 64 * 1024


def test_a_read_only_folder_takes_nothing(read_only_folder):
    with pytest.raises(OSError) as caught:
        (read_only_folder / "file").write_bytes(b"x")
    assert caught.value.errno in {errno.EROFS, errno.EACCES}


def test_an_unmakeable_path_cannot_be_made(unmakeable_path):
    with pytest.raises(OSError):
        unmakeable_path.mkdir(parents=True)
    with pytest.raises(OSError):
        unmakeable_path.write_bytes(b"x")


def test_a_file_cannot_grow_beyond_the_limit_and_can_afterwards(tmp_path):
    path = tmp_path / "file"
    with limited_file_size(1000), pytest.raises(OSError) as caught, path.open("wb", buffering=0) as file:
        file.write(bytes(1000))
        file.write(b"one too many")
    assert caught.value.errno == errno.EFBIG
    path.write_bytes(bytes(2000))
    assert path.stat().st_size == 2000


def test_a_child_process_cannot_write_beyond_the_limit(tmp_path):
    program = f"with open({str(tmp_path / 'file')!r}, 'wb') as file: file.write(bytes(2000))"
    done = run_with_limited_file_size(["-c", program], 1000)
    assert done.returncode == 1
    assert os.strerror(errno.EFBIG) in done.stderr
    assert (tmp_path / "file").stat().st_size <= 1000


def test_a_device_that_is_always_full_exists():
    with pytest.raises(OSError) as caught, Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")
    assert caught.value.errno == errno.ENOSPC
