"""What the loss is of is marked, and special tokens are shown by their names."""

from __future__ import annotations

import io

import numpy as np
import pytest

from gptcli import console
from gptcli.console import VisibleStream, show_coloured
from gptcli.data.examples.display import marked, shown_parts


def test_parts_are_the_whole_example_with_marks(tokenizer) -> None:
    start, end = (tokenizer.backend.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>"))
    ids = np.array([start, *tokenizer.encode("a\nhi"), end, *tokenizer.encode("é")], dtype=np.uint32)
    in_loss = np.array([0, 0, 0, 1, 1, 1, 0, 0], dtype=bool)
    parts = shown_parts(tokenizer, ids, in_loss)
    assert [part.text for part in parts] == ["<|im_start|>", "a\n", "hi", "<|im_end|>", "é"]
    assert marked(parts) == "<|im_start|>a\n⟦hi<|im_end|>⟧é"


def test_colours_are_written_and_codes_of_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", VisibleStream(terminal, has_bars=False))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console.has_colours()
    show_coloured([("a\x1b[2Jb", 32), ("c", None)])
    assert terminal.getvalue() == "\x1b[32ma\\u001b[2Jb\x1b[0mc\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not console.has_colours()
