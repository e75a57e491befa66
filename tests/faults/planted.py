"""A folder of modules that must never be imported: named as the standard library and all installed packages are."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

PROBE = """
import sys
print([name.partition(".")[0] for name, module in sys.modules.items() if hasattr(module, "__file__")])
"""
AUTOMATIC = ("sitecustomize", "usercustomize", "conftest", "setup")


def plant(folder: Path, markers: Path, but: frozenset[str] = frozenset()) -> int:
    """Write the modules to `folder`; each makes a file of its name in `markers` when it is imported, and raises.

    Returns how many there are.
    """
    markers.mkdir(parents=True, exist_ok=True)
    installed = {name.partition("/")[0] for name in importlib.metadata.packages_distributions()}
    names = sorted({*sys.stdlib_module_names, *installed, *AUTOMATIC} - but - {"__main__"})
    names = [name for name in names if name.isidentifier()]
    for name in names:
        marker = str(markers / name)
        (folder / f"{name}.py").write_text(f"open({marker!r}, 'w').close()\nraise ImportError('planted')\n")
    return len(names)


def imported_by_python(folder: Path) -> frozenset[str]:
    """What `python -m MODULE` itself imports, from the working directory, before any code of the module runs."""
    (folder / "gptcli_probe.py").write_text(PROBE)
    done = subprocess.run(
        [sys.executable, "-m", "gptcli_probe"], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return frozenset(json.loads(done.stdout.replace("'", '"'))) | {"gptcli"}


def planted_imported(markers: Path) -> list[str]:
    """The names of the planted modules that were imported since the last call."""
    found = sorted(path.name for path in markers.iterdir())
    for name in found:
        (markers / name).unlink()
    return found
