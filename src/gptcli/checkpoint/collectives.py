"""What several ranks do together: the work that they share, and that they fail together. Knows no file.

Each function takes the process group, or none for a process that is alone, and is called by every rank of the group.
A rank that failed alone would leave the others waiting for it, so an error that a user can cause is raised on all.
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
    """This process's number in the group, from 0."""
    return 0 if group is None else group.rank()


def ranks_of(group: ProcessGroup | None) -> int:
    """How many processes the group has."""
    return 1 if group is None else group.size()


def on_all(group: ProcessGroup | None, action: Callable[[], Result]) -> Result:
    """Do `action` on every rank, each its own.

    Raises:
        GptcliError: on every rank, that of the first rank where it failed.
    """
    if group is None:
        return action()
    from torch.distributed import all_gather_object

    result, error = outcome(action)
    errors: list[GptcliError | None] = [None] * ranks_of(group)
    all_gather_object(errors, error, group=group)
    raise_first(errors)
    return result


def on_first(group: ProcessGroup | None, action: Callable[[], Result]) -> Result:
    """Do `action` on the first rank only and give its result, which must be picklable, to all.

    Raises:
        GptcliError: on every rank, where it failed.
    """
    if group is None:
        return action()
    from torch.distributed import broadcast_object_list

    made = [outcome(action) if rank_in(group) == 0 else (None, None)]
    broadcast_object_list(made, group=group, group_src=0)
    result, error = made[0]
    raise_first([error])
    return result


def outcome(action: Callable[[], Any]) -> tuple[Any, GptcliError | None]:
    try:
        return action(), None
    except GptcliError as error:
        return None, error


def raise_first(errors: list[GptcliError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error
