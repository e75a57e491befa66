"""The help of every command: a short imperative line, options in groups, and examples that the command accepts."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from command_tree import LEAVES, TREE

VERBS = {"Check", "Convert", "Estimate", "Generate", "List", "Measure", "Prepare", "Print", "Read", "Repeat", "Show"}
VERBS |= {"Fine-tune", "Record", "Serve", "Export", "Remove", "Talk", "Train", "Upload"}
VERBS_AND_GROUPS = {words: command for words, command in TREE.items() if words}
RUNNABLE = {words: command for words, command in TREE.items() if words in LEAVES or words == ("bench",)}


def name(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else ""


@pytest.mark.parametrize(("words", "command"), VERBS_AND_GROUPS.items(), ids=name)
def test_the_first_line_is_a_short_imperative(words: tuple[str, ...], command: Any) -> None:
    first, *rest = command.help.splitlines()
    assert len(first) <= 60 and first.endswith(".") and (not rest or not rest[0])
    assert first.split()[0].rstrip(",") in VERBS


@pytest.mark.parametrize(("words", "command"), RUNNABLE.items(), ids=name)
def test_every_option_belongs_to_a_group_and_says_what_it_does(words: tuple[str, ...], command: Any) -> None:
    for option in (parameter for parameter in command.params if parameter.param_type_name == "option"):
        assert option.rich_help_panel, option.name
        assert re.fullmatch(r"[A-Z].*\.", option.help), option.help


@pytest.mark.parametrize(("words", "command"), RUNNABLE.items(), ids=name)
def test_the_help_ends_with_examples_that_are_accepted(words: tuple[str, ...], command: Any) -> None:
    examples = [line.strip() for line in command.epilog.splitlines()]
    assert 2 <= len(examples) <= 4
    assert f"gptcli {name(words)}" in command.epilog
    for line in re.split(r" \| |\n", command.epilog):
        program, *arguments = shlex.split(line.split(" > ")[0])
        known = max((known for known in RUNNABLE if tuple(arguments[: len(known)]) == known), key=len)
        assert program == "gptcli"
        TREE[known].make_context(name(known), arguments[len(known) :])


def test_the_help_prints_groups_and_then_examples_as_they_are_typed() -> None:
    command = TREE["generate",]
    text = command.get_help(command.make_context("generate", ["runs/book"], max_content_width=60))
    headings = re.findall(r"^(\w+):$", text, re.M)
    assert headings == ["Arguments", "Prompt", "Model", "Sampling", "Compute", "Output", "Data", "Options", "Examples"]
    assert text.endswith("\n  gptcli generate runs/book --prompt-file prompts.txt --json")
