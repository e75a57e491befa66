"""The command itself: errors in one line, and help for every comparison."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import app
from gptcli.errors import GptcliError


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "scripts" / "bench"), *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--peer", "jax"], "peer 'jax' is unknown; choose from transformers"),
        (["train", "--peer", "nanogpt"], "peer nanogpt needs a path"),
        (["learn"], "no corpus to learn; name one"),
        (["learn", "x.txt", "--targets", "low"], "--targets 'low': 'low' is not a number above 0"),
        (["learn", "x.txt", "--picture", "x.gif"], "end it in .svg or .png"),
        (["deadline"], "no corpus to learn; name one or more"),
        (["deadline", "x.txt", "--minutes", "0"], "--minutes '0': '0' is not a number above 0"),
        (["deadline", "x.txt", "--gpt2-vocab", "nowhere"], "tokenizer nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(GptcliError) as error:
        app(standalone_mode=False)
    assert message in str(error.value)


def test_the_command_ends_with_the_error_in_one_line(root: Path) -> None:
    done = run(root, "learn")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "gptcli: no corpus to learn; name one: learn book.txt"
