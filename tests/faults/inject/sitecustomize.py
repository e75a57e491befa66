"""Every Python that finds this on its path runs it at its start: it makes one rank of a job fail.

GPTCLI_FAULT is `RANK STEP FILE`. That rank raises in its STEP-th step, after it wrote the time into FILE.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "gptcli.train.step"


class Finder(importlib.abc.MetaPathFinder):
    """Changes the module as soon as it is imported, when torch is set up as the command does it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def change(module: ModuleType) -> None:
    _, step, file = os.environ["GPTCLI_FAULT"].split(" ", 2)
    launch, made = module.Stepper.launch, []

    def failing(*arguments: Any, **options: Any) -> Any:
        made.append(1)
        if len(made) == int(step):
            Path(file).write_text(str(time.time()))
            raise RuntimeError("made to fail")
        return launch(*arguments, **options)

    module.Stepper.launch = failing


if os.environ.get("RANK", "none") == os.environ.get("GPTCLI_FAULT", "").partition(" ")[0]:
    sys.meta_path.insert(0, Finder())
