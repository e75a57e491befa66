"""The process of one contender: builds it from a task on standard input, then plays a round for every further line.

Speaks JSON, a line a message; whatever a contender prints itself goes to stderr. Knows no other contender.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from gptcli import strict_json
from gptcli.report.bench.jobs import ESSENTIAL, JOBS
from gptcli.runtime import prepare


class Contender(NamedTuple):
    """What takes part in a contest: facts about it, and `play(**request)`, one round's measurements, as JSON."""

    facts: dict[str, Any]
    play: Callable[..., dict[str, Any]]


def build(task: dict[str, Any]) -> Contender:
    """The contender that the module of `peers` makes of its job; ours with the process set up as the command does."""
    if task["module"] in ESSENTIAL:
        prepare()
    module = importlib.import_module(f"gptcli.report.bench.peers.{task['module']}")
    return getattr(module, task["bench"])(JOBS[task["bench"]](**task["job"]))


def main() -> None:
    """Answer the task with the contender's facts and each request with a round; after an error, say it and end."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value: dict[str, Any]) -> None:
        answers.write(strict_json.dumps(value) + "\n")
        answers.flush()

    try:
        contender = build(json.loads(sys.stdin.readline()))
        answer(contender.facts)
        for line in sys.stdin:
            answer(contender.play(**json.loads(line)))
    except Exception as error:  # whatever a peer raises is told to the bench, which goes on without it
        message = str(error).strip().partition("\n")[0]
        answer({"error": f"{type(error).__name__}: {message}" if message else type(error).__name__})
        raise


if __name__ == "__main__":
    main()
