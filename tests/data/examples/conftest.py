"""Small corpora of examples, and the model that they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptcli import strict_json
from gptcli.data.config import DataConfig
from gptcli.data.examples.scan import ExampleScan, scan_examples
from gptcli.data.examples.template import template_for_examples, with_template
from gptcli.data.workspace import ExampleModel, Workspace
from gptcli.tokenizer.tokenizer import Tokenizer
from special_tokens import with_specials

SEQ_LEN = 96
Scan = Callable[..., ExampleScan]


def conversation(*turns: str, system: str = "") -> dict[str, Any]:
    """Return a row whose messages are of the user and the assistant in turn."""
    said = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(turns)]
    return {"messages": [{"role": "system", "content": system}] * bool(system) + said}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(strict_json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of bytes with the special tokens of ChatML."""
    base = Tokenizer(with_specials("<|endoftext|>"))
    return with_template(base, template_for_examples(base, DataConfig(kind="examples")))


@pytest.fixture
def workspace(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., Workspace]:
    """workspace(**data): the settings of a corpus of examples for a model of SEQ_LEN tokens."""
    model = ExampleModel(tokenizer, SEQ_LEN)
    return lambda **data: Workspace(DataConfig(**{"kind": "examples", **data}), tmp_path / "cache", 0, model=model)


@pytest.fixture
def scan(tmp_path: Path, workspace: Callable[..., Workspace]) -> Scan:
    """scan(rows, **data): the scan of a file with these rows."""

    def made(rows: list[dict[str, Any]], **data: Any) -> ExampleScan:
        return scan_examples([str(write_rows(tmp_path / "rows.jsonl", rows))], workspace(**data))

    return made
