"""Advice in messages: each command, option and key that the source names to the user exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from command_tree import COMMANDS
from gptcli.cli.hints import INSTEAD_OF_OPTIONS, INSTEAD_OF_WORDS
from gptcli.config.names import key_paths
from gptcli.train.config import RunConfig

ROOT = Path(__file__).resolve().parents[1]
OF_TORCHRUN = {
    *("--nproc-per-node", "--monitor-interval", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--standalone")
}
OF_CONVERTERS = {"--headless", "--convert-to", "--include"}
"""Options of libreoffice and git lfs, which make text of other files."""
PLACEHOLDER = "\N{OBJECT REPLACEMENT CHARACTER}"


def texts(path: Path) -> list[tuple[str, str]]:
    """(place, text) of every string but docstrings; what an f-string fills in is PLACEHOLDER."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    skipped = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    skipped |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    found = []
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values]
            found.append((f"{path.relative_to(ROOT)}:{node.lineno}", "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node.value))
    return found


OPTIONS = set().union(
    *COMMANDS.values(), *INSTEAD_OF_OPTIONS.values(), *INSTEAD_OF_WORDS.values(), OF_TORCHRUN, OF_CONVERTERS
) | {"--help"}
KEYS = set(key_paths(RunConfig)) | {"a.b", "section.key", "SECTION.KEY", "KEY", "key"}
FILES = sorted((ROOT / "src" / "gptcli").rglob("*.py"))


@pytest.fixture(scope="module")
def found_texts() -> list[tuple[str, str]]:
    return [found for path in FILES for found in texts(path)]


def test_every_key_that_a_message_sets_exists(found_texts: list[tuple[str, str]]) -> None:
    pattern = rf"--set[ =]['\"]?([A-Za-z_.]+)(?=[={PLACEHOLDER}])"
    named = [(place, key) for place, text in found_texts for key in re.findall(pattern, text) if not key.endswith(".")]
    assert len(named) > 10
    assert [(place, key) for place, key in named if key not in KEYS] == []


def test_every_option_that_a_message_names_exists(found_texts: list[tuple[str, str]]) -> None:
    named = [
        (place, option) for place, text in found_texts for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+\b", text)
    ]
    assert len(named) > 100
    assert [(place, option) for place, option in named if option not in OPTIONS] == []


def test_every_command_that_a_message_names_exists_with_its_options(found_texts: list[tuple[str, str]]) -> None:
    named = [(place, found) for place, text in found_texts for found in re.findall(r"gptcli ([a-z][^;`\n),]*)", text)]
    named = [(place, command) for place, command in named if not command.startswith(("lacks", "to "))]  # sentences
    assert len(named) > 20
    wrong = []
    for place, command in named:
        known = max((c for c in COMMANDS if tuple(command.split()[: len(c)]) == c), key=len)
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", command))
        if not known or not options <= COMMANDS[known] | {"--help"}:
            wrong.append((place, command))
    assert wrong == []
