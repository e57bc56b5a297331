"""The page for the Raspberry Pi: what it says to type works."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from outside.sources import ROOT

PAGE = (ROOT / "docs/install-on-a-raspberry-pi.md").read_text()


def test_frames_of_a_camera_module_are_read_from_the_pipe_as_the_page_says(tiny_edge_bundle, tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "digits-1.0.0.edge").symlink_to(tiny_edge_bundle.path)
    red = [81, 90, 240]  # Y, U, V in video range
    frame = b"".join(
        bytes([level]) * count for level, count in zip(red, (640 * 480, 320 * 240, 320 * 240), strict=True)
    )
    (tmp_path / "frames").write_bytes(frame * 3)
    camera = tmp_path / "rpicam-vid"
    camera.write_text(f"#!/bin/sh\nexec cat {tmp_path / 'frames'}\n")
    camera.chmod(0o755)
    known = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.startswith("red ") for line in lines)


def test_the_agents_unit_runs_the_program_where_the_page_puts_it():
    unit = (ROOT / "deploy/edge-sdk-agent.service").read_text()
    assert "ExecStart=/usr/local/bin/edge-sdk agent --config /etc/edge-sdk/agent.toml" in unit
    assert "ln -s /opt/edge-sdk/bin/edge-sdk /usr/local/bin/" in PAGE
