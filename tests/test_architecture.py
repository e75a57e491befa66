"""The floors of docs/architecture.md hold, and the command starts without torch."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from fresh import run_fresh

FLOORS = {
    "errors": 0, "strict_json": 0, "storage": 0, "console": 0, "figures": 0, "interruptible": 0, "runtime": 0,
    "limited_process": 0, "limits": 0,
    "config": 1, "manifest": 1,
    "nn": 2, "tokenizer": 2,
    "models": 3, "data": 3, "optim": 3,
    "checkpoint": 4, "objective": 4,
    "generate": 5, "interop": 5, "parallel": 5,
    "session": 6,
    "evaluate": 7,
    "train": 8,
    "report": 9, "serve": 9, "chat": 9,
    "cli": 10,
}  # fmt: skip
SOURCE = Path(__file__).resolve().parents[1] / "src" / "gptcli"
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or not path.stem.startswith("__"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a file's syntax tree, which most rules look at."""
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, those inside functions included."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_package_has_a_floor() -> None:
    assert {package_of(path) for path in FILES} == FLOORS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_package_imports_only_from_lower_floors(path: Path) -> None:
    package = package_of(path)
    for name in imports(path):
        other = name.removeprefix("gptcli.").split(".")[0]
        if name.startswith("gptcli.") and other in FLOORS and other not in (package, "errors"):
            assert FLOORS[other] < FLOORS[package], f"{package} (floor {FLOORS[package]}) imports {name}"


def test_imports_form_no_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count too."""
    modules = {module_name(path): path for path in SOURCE.rglob("*.py")}
    graph = {module: imported_modules(path, modules) for module, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules of a circle


def module_name(path: Path) -> str:
    return ".".join(("gptcli", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def imported_modules(path: Path, modules: Collection[str]) -> set[str]:
    """The modules of gptcli that a file imports; `from package import module` imports that module alone."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {member if member in modules else str(node.module) for member in members}
    return names & set(modules)


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for path in SOURCE.rglob("*.py"):
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(SOURCE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_typer_is_known_to_the_command_line_only(path: Path) -> None:
    if package_of(path) != "cli":
        assert not any(name.split(".")[0] == "typer" for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_json_is_written_by_one_module_which_writes_no_nan(path: Path) -> None:
    if path.name == "strict_json.py":
        assert "allow_nan" in path.read_text()
        return
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "json", f"{path}:{node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps", "JSONEncoder", "load"):
            assert isinstance(node.value, ast.Name) and node.value.id != "json", f"{path}:{node.lineno}"


READERS = re.compile(
    r"storage/|limits.py"
    r"|report/bench/machine.py|nn/processor.py|nn/device.py|train/clock.py|data/worker_pool.py"  # of /proc and /sys
    r"|cli/standard_streams.py"  # /dev/null, and what is open already
    r"|train/planning/scaling_law.py|parallel/launch.py|report/bench/encoding_rounds.py"  # what it wrote itself
)
"""Modules that open files as they are. `data/sources.py` opens the pipes and devices that the user names."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_regular_files_are_read_and_only_up_to_a_bound(path: Path) -> None:
    """Whatever opens a file for reading does it by gptcli.storage's `open_regular`, `read_regular` or `read_named`."""
    name = str(path.relative_to(SOURCE))
    if READERS.search(name):
        return
    opened = [node for node in nodes(path) if opens_a_file(node)]
    assert len(opened) <= 2 * (name == "data/sources.py"), [f"{path}:{node.lineno}" for node in opened]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_json_is_read_by_the_module_that_refuses_deep_nesting(path: Path) -> None:
    """json.loads raises RecursionError for it, which is no ValueError."""
    # What this program wrote just now, or ships.
    own = r"strict_json.py|report/bench/|train/planning/scaling_law.py|parallel/(launch|world).py"
    if not re.search(own, str(path.relative_to(SOURCE))):
        assert not re.search(r"(?<![\w.])json\.loads?\(", path.read_text())


def opens_a_file(node: ast.AST) -> bool:
    """Whether this is a call of `open`, `os.open` or a method of a path that opens what lies there for reading."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id == "open" and not is_for_writing(node.args[1:])
    if not isinstance(node.func, ast.Attribute):
        return False
    owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    if node.func.attr in ("read_text", "read_bytes"):
        return True
    if node.func.attr != "open" or owner[:1].isupper() or owner in ("gzip", "zstandard", "archive", "stream"):
        return False  # TokenShards.open, or the stream of a file that is open
    return not is_for_writing(node.args[1:] if owner == "os" else node.args)


def is_for_writing(arguments: Sequence[ast.expr]) -> bool:
    """Whether the first of the arguments of a call after the path is a mode or a flag for writing."""
    words = ast.unparse(arguments[0]) if arguments else "r"
    return any(word in words for word in ("w", "a", "x", "O_CREAT", "O_RDWR")) and "rb" not in words


def test_no_file_is_longer_than_a_reader_can_bear() -> None:
    long = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_does_not_import_torch(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['gptcli', *{arguments!r}]\n" + (
        "from gptcli.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'datasets', 'gptcli.config'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert "gptcli" in run_fresh(code)


@pytest.mark.parametrize(
    "module",
    [
        "gptcli.train.config",
        "gptcli.models.estimate",
        "gptcli.train.planning.zero_config",
        "gptcli.report.planning.text",
    ],
)
def test_configs_are_read_without_torch(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    run_fresh(code)


WRITERS = {
    "write_text", "write_bytes", "tofile", "touch", "rename", "symlink_to", "hardlink_to", "copyfile", "copy2",
    "move", "mkstemp", "mkdtemp", "NamedTemporaryFile", "save_file", "serialize_file", "open_memmap",
    "rmtree", "copytree",
}  # fmt: skip
"""Calls that write, or remove, wherever a link leads. What uses gptcli.storage needs none of them."""
MAY_WRITE = {
    "cli/standard_streams.py": 1,  # /dev/null
    "checkpoint/save.py": 1,  # renames a checkpoint that it removes
    "checkpoint/tensor_files.py": 1,  # a library, in a temporary directory
    "data/cache.py": 2,  # rmtree refuses a link
    "data/mix.py": 1,  # second names in a temporary directory for files that nobody writes to
    "data/scan.py": 2,
    "data/streams.py": 2,
    "interop/onnx.py": 1,  # a file of a temporary directory
    "report/bench/encoding.py": 1,  # in a temporary directory
    "interop/unpickle.py": 2,  # a process in a temporary directory of its own, which writes as little as it imports
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_storage_writes_files(path: Path) -> None:
    """Whatever is written in a run, a cache or an export is written by gptcli.storage, which follows no link."""
    name = str(path.relative_to(SOURCE))
    if name.startswith("storage/"):
        return
    found = [node for node in nodes(path) if writes_a_file(node)]
    assert len(found) <= MAY_WRITE.get(name, 0), [f"{path}:{node.lineno}" for node in found]


def writes_a_file(node: ast.AST) -> bool:
    """Whether this call opens a file for writing, renames one or writes one by its name."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    if name == "memmap":
        return any(keyword.arg == "mode" and ast.unparse(keyword.value) == "'w+'" for keyword in node.keywords)
    if name == "replace":  # Path.replace has one argument, str.replace two
        return len(node.args) == 1 and not node.keywords and bool(owner)
    if name != "open":
        return name in WRITERS and bool(owner or name.endswith("_file"))
    given = [ast.unparse(argument) for argument in (*node.args, *(keyword.value for keyword in node.keywords))]
    if owner == "os":
        return any(flag in flags for flags in given for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND"))
    return owner != "zstandard" and any(re.fullmatch(r"'[rbt]*[wax+][rbt+]*'", mode) for mode in given)
