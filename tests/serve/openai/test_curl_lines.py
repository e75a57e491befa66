"""The curl lines of docs/serving.md do what the page says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ADDRESS = "http://127.0.0.1:8000"


def curl_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M)
    commands = re.split(r"^(?=\w)", "".join(blocks), flags=re.M)
    return [command for command in commands if command.startswith("curl ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_curl_line_is_answered(root: Path, address_of_one: str) -> None:
    commands = curl_lines(root / "docs" / "serving.md")
    assert len(commands) >= 10
    for command in commands:
        line = command.replace(ADDRESS, address_of_one).replace(
            "curl ", "curl --silent --show-error --fail-with-body ", 1
        )
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout
