"""The processes that train one model: their ranks, the messages between them, and how all of them end.

They share the key-value store of their launcher (`gptcli train --nproc`, torchrun). What one rank decides for all is
sent through it. A rank that fails writes the reason there, and all ranks end. Sums use torch's process groups. A
process that was started alone is a world of one, which loads nothing of torch.distributed.
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
from typing import Any, NoReturn, Self, TypeVar

import torch
from torch import Tensor

from gptcli import console, strict_json
from gptcli.errors import GptcliError, UsageError, first_line
from gptcli.storage import write_atomic

UNSET = "unset it, or start the ranks by gptcli train --nproc or by torchrun"
LAUNCH_VARIABLE = "GPTCLI_LAUNCH"
"""The environment variable with the directory of our own launcher, where a rank writes why all ranks ended."""
RENDEZVOUS_VARIABLE = "GPTCLI_RENDEZVOUS"
"""The environment variable with the name of the rendezvous that started this rank, the same for all of its ranks."""
FAILURE_NAME = "failure.json"
FAILURE_KEY = "failure"
START_SECONDS = 300.0
"""The longest time that the ranks may take to start."""
WATCH_SECONDS = 0.5
"""The time between two checks whether another rank has failed."""
REASON_SECONDS = 5.0
"""The longest time that a rank which lost the others waits for the reason."""

Result = TypeVar("Result")


def require_numbers() -> None:
    """Raise UsageError where a variable with which ranks are started is not a number."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise UsageError(f"the variable {name} of the environment is {value!r}, not a number of ranks", UNSET)


def require_address() -> None:
    """Raise UsageError where the address of the ranks' store is not set."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise UsageError(f"WORLD_SIZE is set in the environment, and {name} is not", UNSET)


class World:
    """This process among `size`; only rank 0 prints and writes. Use it as a context manager, see `join`."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, base: Any = None, prefix: str = "") -> None:
        """
        Args:
            local_rank: its number on this machine, which decides its GPU.
            base: the launcher's store, which stays the same when it restarts ranks; None for a process alone.
            prefix: the prefix of the keys in it that these ranks use.
        """
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.base, self.prefix = base, prefix
        self.store: Any = None if base is None else self.prefixed(base)
        self.work = "the start"
        """What is being done, for the message of a rank that another one does not answer."""
        self.messages = 0
        self.timeout = START_SECONDS
        self.is_connected = False
        self.watcher = threading.Thread(target=self.watch, name="watch", daemon=True)
        self.is_done = threading.Event()

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that prints and writes."""
        return self.rank == 0

    @property
    def local_size(self) -> int:
        """The number of ranks on this machine, as torchrun sets it; 1 where it is not set."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    @classmethod
    def join(cls) -> World:
        """Return the world that the environment describes, as torchrun sets it; a world of one where there is none.

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
        if local_rank == 0 and LAUNCH_VARIABLE in os.environ:  # the reason why earlier ranks ended is outdated
            (Path(os.environ[LAUNCH_VARIABLE]) / FAILURE_NAME).unlink(missing_ok=True)
        # Each machine's launcher counts its own restarts; only the name of the rendezvous is the same on all machines.
        start = os.environ.get(RENDEZVOUS_VARIABLE) or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        attempt = f"{start}-{size}"
        # Ranks that replace others after a change of machines count as the same attempt.
        turn = base.add(f"gptcli/{attempt}/{rank}", 1)
        return cls(rank, size, local_rank, base, f"gptcli/{attempt}/{turn}")

    def prefixed(self, base: Any) -> Any:
        """Return the part of `base` with the keys of these ranks."""
        from torch._C._distributed_c10d import PrefixStore

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
                self.first(lambda: None)  # if the first rank's last work fails, all ranks have failed
            # A thread that Python kills within a call into C++ would abort the process.
            self.is_done.set()
            self.watcher.join()
            if self.is_connected:
                torch.distributed.destroy_process_group()

    def watch(self) -> None:
        """End this process as soon as another rank has failed, whatever it is doing; runs in its own thread."""
        from torch._C._distributed_c10d import TCPStore

        try:
            # A separate connection, since the rank may be waiting on the other one.
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = self.prefixed(TCPStore(address, port, is_master=False))
            while not store.check([FAILURE_KEY]):
                if self.is_done.wait(WATCH_SECONDS):
                    return
            failure = json.loads(store.get(FAILURE_KEY))
        except RuntimeError:  # the launcher is gone
            os._exit(1)
        if failure["rank"] != self.rank:
            os._exit(exit_code_of(failure))

    def fail(self, error: Exception) -> NoReturn:
        """End this process and thereby all ranks; the first one that fails prints why, a user's error in one line."""
        code, is_final = (error.exit_code, True) if isinstance(error, GptcliError) else (1, False)
        failure = {"rank": self.rank, "line": str(error), "code": code, "is_final": is_final}
        if self.size > 1 and not is_final and (lost := self.lost_rank_line(error)):
            self.wait_for_reason()
            failure["line"] = lost
        reason = self.claim(failure)
        if reason == failure:
            self.report(error, failure)
        with contextlib.suppress(OSError, GptcliError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(exit_code_of(reason))

    def lost_rank_line(self, error: Exception) -> str | None:
        """Return the line for an error that means that another rank does not answer; None for any other error."""
        if not isinstance(error, RuntimeError):  # as all of torch.distributed's errors are
            return None
        text = f"{type(error).__name__} {error}"
        is_late = any(word in text for word in ("Timed out", "timed out", "timeout"))
        is_closed = any(word in text for word in ("closed by peer", "Connection", "connectFullMesh", "NCCL"))
        if not is_late and not is_closed:
            return None
        how = f"no answer within {self.timeout:g} s (parallel.timeout_seconds)" if is_late else first_line(error)
        return f"rank {self.rank} lost another rank in {self.work}: {how}"

    def wait_for_reason(self) -> None:
        """Wait until the rank whose end broke the connection has written why."""
        until = time.monotonic() + REASON_SECONDS
        while time.monotonic() < until:
            try:
                if self.store.check([FAILURE_KEY]):
                    return
            except RuntimeError:
                return
            time.sleep(0.1)

    def claim(self, failure: dict[str, Any]) -> dict[str, Any]:
        """Store why all ranks end, unless another rank was faster; return what the store then holds."""
        if self.size == 1:
            return failure
        try:
            stored: dict[str, Any] = json.loads(self.store.compare_set(FAILURE_KEY, "", strict_json.dumps(failure)))
            return stored
        except RuntimeError:  # the store is gone, and the other ranks with it
            return failure

    def report(self, error: Exception, failure: dict[str, Any]) -> None:
        """Print why all ranks end, and record it for the launcher."""
        if os.environ.get("GPTCLI_DEBUG") or not (failure["is_final"] or failure["line"] != str(error)):
            traceback.print_exception(error)
        console.say_error(failure["line"])
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)

    def recall(self, key: str) -> str | None:
        """Return what ranks of the same launcher stored by `remember`; None where there is no such value."""
        key = f"gptcli/launch/{key}"
        return self.base.get(key).decode() if self.base is not None and self.base.check([key]) else None

    def remember(self, key: str, value: str) -> None:
        """Store a value for the ranks that the same launcher may start later; without a launcher, do nothing."""
        if self.base is not None:
            self.base.set(f"gptcli/launch/{key}", value)

    def connect(self, device: torch.device, timeout: float) -> None:
        """Set up the process groups, on all ranks. A rank waits `timeout` seconds for another one."""
        self.timeout = timeout
        if self.size == 1:
            return
        import torch.distributed as dist

        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=limit)
        self.is_connected = True

    def device(self, device: torch.device) -> torch.device:
        """Return this rank's device where the settings name `device`: of several GPUs, the one of its local rank.

        Raises:
            UsageError: ranks cannot share the device, or this machine has fewer GPUs than ranks.
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
        """Return the result of `function`, which the first rank calls; the others wait as long as that takes."""
        if self.size == 1:
            return function()
        self.messages += 1
        key = f"message/{self.messages}"
        if self.is_first:
            result = function()
            self.store.set(key, pickle.dumps(result))
            return result
        while not self.store.check([key]):  # polled, since a blocking call would hold up the watching thread
            time.sleep(0.02)
        received: Result = pickle.loads(self.store.get(key))
        return received

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
        """Return the sum of each of these numbers (below 2^63 in sum) over all ranks, by one small message."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64)
        torch.distributed.all_reduce(total)
        return [int(number) for number in total.tolist()]

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` in place over all ranks and return it, without waiting for its device."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, is_true: bool) -> bool:
        """Return whether `is_true` holds on any rank; all ranks call this."""
        return self.sum([int(is_true)])[0] > 0


def exit_code_of(failure: dict[str, Any]) -> int:
    """Return the exit code of a rank when all ranks end for this reason.

    Our launcher gets the reason in a file. It restarts ranks that end with an error, so a rank whose error would
    only occur again ends with 0.
    """
    code = int(failure["code"])
    folder = os.environ.get(LAUNCH_VARIABLE)
    if not folder:
        return code
    write_atomic(Path(folder) / FAILURE_NAME, strict_json.dumps(failure))
    return 0 if failure["is_final"] else code
