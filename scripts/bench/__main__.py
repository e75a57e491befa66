"""Compare gptcli with other programs, in turn and in one run.

    python scripts/bench train --peer nanogpt=PATH
    python scripts/bench learn book.txt --peer nanogpt=PATH --picture curves.svg

Needs an environment with gptcli and its extra `bench`; each comparison names what is missing for the rest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Run the command and return its exit code; errors that a user can cause end in one line."""
    from gptcli.runtime import prepare

    prepare()
    scripts = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, scripts)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (scripts, os.environ.get("PYTHONPATH"))))  # for workers
    from bench.cli import PROGRAM, app
    from gptcli.console import say_error
    from gptcli.errors import GptcliError

    try:
        app(prog_name=PROGRAM)
    except GptcliError as error:
        say_error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
