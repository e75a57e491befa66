"""Work that several ranks share, and errors that all of them raise together. This module handles no files.

Each function takes the process group, or None for a process that trains alone, and every rank of the group calls it.
A rank that failed alone would leave the others waiting, so an error that a user can cause is raised on all.
torch is loaded only where there is a group: checkpoints are listed without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from gptcli.errors import GptcliError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Result = TypeVar("Result")


def rank_in(group: ProcessGroup | None) -> int:
    """Return this process's number in the group, from 0."""
    return 0 if group is None else group.rank()


def ranks_of(group: ProcessGroup | None) -> int:
    """Return the number of processes in the group."""
    return 1 if group is None else group.size()


def on_all(group: ProcessGroup | None, action: Callable[[], Result]) -> Result:
    """Run `action` on every rank and return that rank's own result.

    Raises:
        GptcliError: on every rank, the error of the first rank that failed.
    """
    if group is None:
        return action()
    from torch.distributed import all_gather_object

    error = None
    try:
        result = action()
    except GptcliError as caught:
        error = caught
    errors: list[GptcliError | None] = [None] * ranks_of(group)
    all_gather_object(errors, error, group=group)
    for failure in errors:
        if failure is not None:
            raise failure
    return result


def on_first(group: ProcessGroup | None, action: Callable[[], Result]) -> Result:
    """Run `action` on the first rank only and return its result, which must be picklable, on all.

    Raises:
        GptcliError: on every rank, where it failed.
    """
    if group is None:
        return action()
    from torch.distributed import broadcast_object_list

    outcome: list[Any] = [None, None]
    if rank_in(group) == 0:
        try:
            outcome[0] = action()
        except GptcliError as error:
            outcome[1] = error
    broadcast_object_list(outcome, group=group, group_src=0)
    result: Result = outcome[0]
    if outcome[1] is not None:
        raise outcome[1]
    return result
