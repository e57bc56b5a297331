"""A batch on Ray: the same file as without it. Run by `make test-slow` where Ray is installed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edge_sdk.cloud.batch import predict_batch
from outside.bundles import TinyBundle
from outside.services import edge_sdk as run


def encoded(frame: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def pictures(tiny_edge_bundle: TinyBundle, tmp_path: Path) -> Path:
    """Two hundred pictures, three of them bad."""
    frames = tiny_edge_bundle.images[:200]
    cells: list[bytes | None] = [encoded(frame) for frame in frames]
    cells[4], cells[11], cells[199] = None, b"no picture", cells[199][:60]
    table = pa.table({"image": pa.array(cells, pa.binary()), "id": [f"row-{n}" for n in range(200)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=30)
    return tmp_path / "in.parquet"


@pytest.mark.slow
def test_ray_gives_the_same_file_and_goes_on_where_a_run_was(
    tiny_edge_bundle: TinyBundle, tmp_path: Path, pictures: Path
) -> None:
    pytest.importorskip("ray", reason="needs edge-sdk[ray]")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    predict_batch(tiny_edge_bundle.path, pictures, here, part_rows=32)

    def stop(done: int, *_: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_batch(tiny_edge_bundle.path, pictures, there, part_rows=32, on_progress=stop)
    done = run(
        "batch", tiny_edge_bundle.path, pictures, there, "--engine", "ray", "--workers", "2", "--part-rows", "32",
        timeout=160,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{there}: 200 rows, 96 of them by an earlier run; 3 failed\n"
    assert "Traceback" not in done.stderr  # Ray itself warns of how Ray Data makes its workers
    assert there.read_bytes() == here.read_bytes()


def test_where_ray_is_not_installed_it_is_said_how_to(tiny_edge_bundle: TinyBundle, tmp_path: Path, pictures) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no ray')\n")
    command = [sys.executable, "-P", "-m", "edge_sdk", "batch", tiny_edge_bundle.path, pictures]
    done = subprocess.run(
        [*map(str, command), str(tmp_path / "out.parquet"), "--engine", "ray"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'edge-sdk[ray]'" in done.stderr
