"""`gptcli` as a user types it, in this process, since each new one would load torch anew."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from gptcli.cli.app import main


def gptcli(*arguments: str | Path, cwd: Path | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with `text` on stdin and return its exit code and its output."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["gptcli", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        patch.setattr("gptcli.runtime.prepare", lambda: None)  # its settings would outlast the test
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())
