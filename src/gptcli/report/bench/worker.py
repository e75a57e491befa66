"""The process of one contender: builds it from a task on standard input, then runs a round for each further line.

Messages are JSON, one a line; whatever a contender itself prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from gptcli import strict_json
from gptcli.report.bench.jobs import JOBS
from gptcli.runtime import prepare


class Contender(NamedTuple):
    """A program ready to be measured: facts about it, and a function that runs one round.

    The function takes the request's values as keyword arguments and returns measurements that JSON can represent.
    """

    facts: dict[str, Any]
    run_round: Callable[..., dict[str, Any]]


def build(task: dict[str, Any]) -> Contender:
    """Return the contender that the task's module makes of its job.

    For gptcli's own modules the process is set up as the command sets it up.
    """
    if task["module"].startswith("gptcli."):
        prepare()
    make: Callable[[Any], Contender] = getattr(importlib.import_module(task["module"]), task["bench"])
    return make(JOBS[task["bench"]](**task["job"]))


def main() -> None:
    """Answer the task with the contender's facts and each request with a round; report an error and exit."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(value: dict[str, Any]) -> None:
        answers.write(strict_json.dumps(value) + "\n")
        answers.flush()

    try:
        contender = build(json.loads(sys.stdin.readline()))
        answer(contender.facts)
        for line in sys.stdin:
            answer(contender.run_round(**json.loads(line)))
    except Exception as error:  # whatever a program raises is reported to the bench, which continues without it
        message = str(error).strip().partition("\n")[0]
        answer({"error": f"{type(error).__name__}: {message}" if message else type(error).__name__})
        raise


if __name__ == "__main__":
    main()
