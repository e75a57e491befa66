"""The processes that train one model together: who they are, what they tell each other, and how all of them end.

They meet in the store of whoever started them (`gptcli train --nproc`, torchrun): a table of keys that every rank can
write and read. What one rank alone decides it writes there, and so does a rank that fails, upon which all end. Sums go
through torch's process groups. A process that was started alone is a world of one, which loads none of this.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import torch
from torch import Tensor

from gptcli import console, strict_json
from gptcli.errors import GptcliError, UsageError, first_line
from gptcli.storage import write_atomic

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

UNSET = "unset it, or start the ranks by gptcli train --nproc or by torchrun"
LAUNCH_VARIABLE = "GPTCLI_LAUNCH"
"""Names a directory of our own launcher, in which a rank leaves word of why all of them ended."""
RENDEZVOUS_VARIABLE = "GPTCLI_RENDEZVOUS"
"""Names the meeting of machines for which this rank was started, the same for all of its ranks."""
FAILURE_NAME = "failure.json"
FAILURE_KEY = "failure"
START_SECONDS = 300.0
"""How long the ranks have to start."""
ASIDE_SECONDS = 3600.0
"""How long a rank waits for another one to write its part of a checkpoint."""
LOOK_SECONDS = 0.5
"""How often a rank looks whether another one has failed."""
PATIENCE_SECONDS = 5.0
"""How long a rank that lost the others waits for word of why."""

Result = TypeVar("Result")


def require_numbers() -> None:
    """Raises UsageError: a variable with which ranks are started is no number."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise UsageError(f"the variable {name} of the environment is {value!r}, not a number of ranks", UNSET)


def require_address() -> None:
    """Raises UsageError: nothing says where the ranks of this process are to be found."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise UsageError(f"WORLD_SIZE is set in the environment, and {name} is not", UNSET)


class World:
    """This process among `size`; `rank` 0 is the one that talks and writes. Use as a context manager, see `join`."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, base: Any = None, prefix: str = "") -> None:
        """
        Args:
            local_rank: its number on this machine, by which it takes a GPU.
            base: the store of whoever started the ranks. Where those start ranks anew it is still the same.
            prefix: of the keys in it that these ranks use.
        """
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.base, self.prefix = base, prefix
        self.store = self.below(base) if base is not None else None
        self.work = "the start"
        self.messages = 0
        self.timeout = START_SECONDS
        self.is_connected = False
        self.watcher = threading.Thread(target=self.watch, name="watch", daemon=True)
        self.is_done = threading.Event()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def begin(self, work: str) -> None:
        """Note what is being done, for the message of a rank that another one does not answer."""
        self.work = work

    @property
    def local_size(self) -> int:
        """The number of ranks on this machine, as torchrun sets it; 1 where nothing says it."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    @classmethod
    def join(cls) -> World:
        """The world that the environment describes, as torchrun sets it; of one process where it describes none.

        Raises:
            UsageError: a variable is not a number, or one is missing.
        """
        require_numbers()
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 or "RANK" not in os.environ:
            return cls()
        require_address()
        from torch.distributed.rendezvous import rendezvous

        base, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=START_SECONDS)))
        if rank:
            console.silence()
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        if local_rank == 0 and LAUNCH_VARIABLE in os.environ:  # why the ranks before these ended counts no more
            (Path(os.environ[LAUNCH_VARIABLE]) / FAILURE_NAME).unlink(missing_ok=True)
        # Each machine's launcher counts its own restarts; of several machines only the meeting's name is the same.
        start = os.environ.get(RENDEZVOUS_VARIABLE) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        attempt = f"{start}-{size}"
        # Ranks that replace others after a change of machines count as the same attempt.
        turn = base.add(f"gptcli/{attempt}/{rank}", 1)
        return cls(rank, size, local_rank, base, f"gptcli/{attempt}/{turn}")

    def below(self, base: Any) -> Any:
        """The keys of these ranks in `base`."""
        from torch.distributed import PrefixStore

        return PrefixStore(self.prefix, base)

    def __enter__(self) -> Self:
        if self.size > 1:
            self.watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and (self.size > 1 or LAUNCH_VARIABLE in os.environ):
            self.fail(error)
        if self.size > 1:
            if error is None:
                self.first(lambda: None)  # what the first rank does last may fail, and then all have failed
            # A thread that Python ends by force within a call into C++ would abort the process.
            self.is_done.set()
            self.watcher.join()
            if self.is_connected:
                torch.distributed.destroy_process_group()

    def watch(self) -> None:
        """End this process as soon as another rank has failed, whatever it is doing. Runs in a thread of its own."""
        from torch.distributed import TCPStore

        try:
            # A connection of its own: the rank may be waiting on the other one.
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = self.below(TCPStore(address, port, is_master=False))
            while not store.check([FAILURE_KEY]):
                if self.is_done.wait(LOOK_SECONDS):
                    return
            failure = json.loads(store.get(FAILURE_KEY))
        except RuntimeError:  # whoever started the ranks is gone
            os._exit(1)
        if failure["rank"] != self.rank:
            os._exit(left_behind(failure))

    def fail(self, error: Exception) -> NoReturn:
        """End this process, and so all: the first rank to fail says why, in one line where the user can mend it."""
        failure = {"rank": self.rank, "line": str(error), "code": 1, "is_final": isinstance(error, GptcliError)}
        if isinstance(error, GptcliError):
            failure["code"] = error.exit_code
        elif self.size > 1:
            lost = self.lost(error)
            if lost is not None:
                self.wait_for_word()
                failure["line"] = lost
        word = self.claim(failure)
        if word == failure:
            self.tell(error, failure)
        with contextlib.suppress(OSError, GptcliError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(left_behind(word))

    def lost(self, error: Exception) -> str | None:
        """What to say of an error that means that another rank does not answer; none where it means something else."""
        if not isinstance(error, RuntimeError):  # as all of torch.distributed's errors are
            return None
        text = f"{type(error).__name__} {error}"
        is_late = any(word in text for word in ("Timed out", "timed out", "timeout"))
        if not is_late and not any(
            word in text for word in ("closed by peer", "Connection", "connectFullMesh", "NCCL")
        ):
            return None
        how = f"no answer within {self.timeout:g} s (parallel.timeout_seconds)" if is_late else first_line(error)
        return f"rank {self.rank} lost another rank in {self.work}: {how}"

    def wait_for_word(self) -> None:
        """Give the rank whose end broke the connection time to say why."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                if self.store.check([FAILURE_KEY]):
                    return
            except RuntimeError:
                return
            time.sleep(0.1)

    def claim(self, failure: dict[str, Any]) -> dict[str, Any]:
        """Put down why all end, unless a rank was faster; returns what then stands there."""
        if self.size == 1:
            return failure
        try:
            return json.loads(self.store.compare_set(FAILURE_KEY, "", strict_json.dumps(failure)))
        except RuntimeError:  # the store is gone, and with it the other ranks
            return failure

    def tell(self, error: Exception, failure: dict[str, Any]) -> None:
        """Say why all end, on stderr and to whoever started the ranks."""
        if os.environ.get("GPTCLI_DEBUG") or not (failure["is_final"] or failure["line"] != str(error)):
            traceback.print_exception(error)
        console.say_error(failure["line"])
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)

    def recall(self, key: str) -> str | None:
        """Return what ranks of the same launcher stored by `remember`; None where there is no such value."""
        if self.base is None:
            return None
        key = f"gptcli/launch/{key}"
        return self.base.get(key).decode() if self.base.check([key]) else None

    def remember(self, key: str, value: str) -> None:
        """Store a value for the ranks that the same launcher may start later; without a launcher, do nothing."""
        if self.base is not None:
            self.base.set(f"gptcli/launch/{key}", value)

    def connect(self, device: torch.device, timeout: float) -> None:
        """Set up the process groups; to be called by all ranks. `timeout`: seconds that one waits for another."""
        self.timeout = timeout
        if self.size == 1:
            return
        import torch.distributed as dist

        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=limit)
        self.is_connected = True

    def group_aside(self) -> ProcessGroup:
        """Another process group of all ranks, for what a thread says beside the training; to be called by all.

        In it one waits long for another, whose disk may be slow: one that has ended is noticed at once.
        """
        return torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=ASIDE_SECONDS))

    def device(self, device: torch.device) -> torch.device:
        """The device of this rank where the settings ask for `device`: of several GPUs the one of its local number.

        Raises:
            UsageError: ranks cannot share it, or there are fewer GPUs than ranks on this machine.
        """
        if self.size == 1 or device.type == "cpu":
            return device
        if device.type != "cuda":
            raise UsageError(f"several ranks cannot train on {device.type}", "set device=cpu, or use one process")
        if device.index is not None:
            raise UsageError(f"device {device} is one GPU, and there are {self.size} ranks", "set device=cuda")
        count = torch.cuda.device_count()
        if self.local_rank >= count:
            raise UsageError(
                f"this machine has {count} GPU{'s' * (count != 1)} and is to run more ranks than that",
                f"use --nproc {count}, or device=cpu",
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def first(self, function: Callable[[], Result]) -> Result:
        """What `function` returns to the first rank, which alone calls it. The others wait as long as that takes."""
        if self.size == 1:
            return function()
        self.messages += 1
        key = f"message/{self.messages}"
        if self.is_first:
            result = function()
            self.store.set(key, pickle.dumps(result))
            return result
        while not self.store.check([key]):  # never blocks for long: the thread that watches needs its turn
            time.sleep(0.02)
        return pickle.loads(self.store.get(key))

    def in_turn(self, function: Callable[[], Result]) -> Result:
        """Call `function` on every rank and return its result there; the others wait until the first rank has it."""
        if not self.is_first:
            self.first(lambda: None)
            return function()
        result = function()
        self.first(lambda: None)
        return result

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum([0])

    def sum(self, numbers: Sequence[int]) -> list[int]:
        """Of each of these numbers (below 2^63 in sum) the sum over all ranks: one small message."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """`tensor`, summed in place over all ranks, on its device, which is not waited for."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, is_true: bool) -> bool:
        """Whether it is true on any rank; to be called by all."""
        return self.sum([int(is_true)])[0] > 0


def left_behind(failure: dict[str, Any]) -> int:
    """The exit code of a rank when all end for this reason.

    Our launcher is told in a file, and the rank ends as if all were well where that must not be tried again: the
    launcher starts ranks anew that end with an error.
    """
    folder = os.environ.get(LAUNCH_VARIABLE)
    if not folder:
        return failure["code"]
    write_atomic(Path(folder) / FAILURE_NAME, strict_json.dumps(failure))
    return 0 if failure["is_final"] else failure["code"]
