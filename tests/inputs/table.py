"""Tries every input and prints the table of docs/reliability.md ("Inputs of people").

    python tests/inputs/table.py            the table, and every row with another result
    python tests/inputs/table.py --write    also puts the table into docs/reliability.md

Needs the environment that gptcli is installed in; takes a few minutes. Exits with 1 if a row has another result.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- inputs: python tests/inputs/table.py --write -->", "<!-- end of inputs -->"


def table() -> str:
    """The Markdown table of all inputs."""
    from inputs import ATTEMPTS

    cells = [[cell.replace("|", r"\|") for cell in (attempt.input, attempt.happens)] for attempt in ATTEMPTS]
    rows = [f"| {input} | {happens} |" for input, happens in cells]
    return "\n".join(["| input | what happens |", "| --- | --- |", *rows])


def page_with_table(page: str) -> str:
    """The page with the current table between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def main() -> int:
    sys.path.insert(0, str(ROOT / "tests"))
    from inputs import ATTEMPTS, train_run

    failed = 0
    with tempfile.TemporaryDirectory(prefix="gptcli-inputs-") as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")
        run = train_run(Path(scratch) / "made")
        for number, attempt in enumerate(ATTEMPTS):
            folder = Path(scratch) / str(number)
            shutil.copytree(run.parent, folder)
            problems = list(attempt.problems(folder))
            failed += bool(problems)
            print(f"{'FAILED' if problems else 'ok':>6}  {attempt.input}", file=sys.stderr)
            for problem in problems:
                print(f"          {problem}", file=sys.stderr)
    print(table())
    print(f"{len(ATTEMPTS)} inputs, {failed} with another result", file=sys.stderr)
    if "--write" in sys.argv:
        PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
