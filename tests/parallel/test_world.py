"""A process that is alone asks nobody, and loads nothing of what several need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.parallel.launch import Launch, arguments_of_ranks
from gptcli.parallel.world import World
from parallel.ranks import environment, make_corpus, train_arguments


def test_alone_every_question_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with World.join() as world:
        assert world.size == 1 and world.is_first
        assert world.first(lambda: "made") == "made"
        assert world.sum([3, 4]) == [3, 4]
        assert world.any(True) and not world.any(False)
        assert world.device(torch.device("cuda")) == torch.device("cuda")
        world.barrier()
        world.connect(torch.device("cpu"), 1.0)
    assert not torch.distributed.is_initialized()


def test_a_process_that_trains_alone_loads_nothing_of_what_ranks_need(tmp_path: Path) -> None:
    arguments = train_arguments(make_corpus(tmp_path), tmp_path / "run", train__max_steps=2)
    code = (
        f"import sys; sys.argv = ['gptcli', *{arguments!r}]\n"
        "from gptcli.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "names = ('torch.distributed.fsdp', 'torch.distributed.tensor', 'gptcli.parallel.distributed')\n"
        "loaded = [name for name in names if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment(tmp_path / "cache")
    )
    assert done.returncode == 0, done.stderr


def test_the_ranks_run_the_same_command_without_what_is_the_launchers() -> None:
    typed = ["train", "a.txt", "--nproc", "4", "--rdzv=h:1", "--set", "optim.lr=1", "--max-restarts", "0", "--resume"]
    own = ("--nproc", "--nnodes", "--rdzv", "--max-restarts")
    assert arguments_of_ranks(typed, own) == ["train", "a.txt", "--set", "optim.lr=1", "--resume"]


def test_several_machines_need_a_place_to_meet() -> None:
    with pytest.raises(UsageError, match="--rdzv HOST:PORT"):
        Launch(2, nnodes="2").options()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE of the environment is 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK of the environment is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "9" * 5000}, "LOCAL_RANK of the environment"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is set in the environment, and MASTER_ADDR is not"),
    ],
)
def test_an_environment_that_describes_no_ranks_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        World.join()
