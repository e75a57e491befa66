"""The split of examples into those trained on, validated on and left out: whole groups are drawn by their hash."""

from __future__ import annotations

import numpy as np

from gptcli.data.config import DataConfig
from gptcli.data.duplicates import later_occurrences
from gptcli.data.examples.units import Units
from gptcli.data.groups import Groups
from gptcli.data.permutation import derive, mix
from gptcli.data.split import DUPLICATE, OVERLAP, TRAIN, VAL, choose_by_hash, default_val_bytes, drop, kept_sums
from gptcli.errors import DataError


def drop_equal(units: Units, own_val: int, assignment: np.ndarray) -> None:
    """Mark all but the first of equal units; one of `data.val`, the first `own_val` units, leaves the other out."""
    for places, firsts in later_occurrences(units.wholes, units.folder):
        in_both = (firsts < own_val) & (places >= own_val)
        is_free = assignment[places] == TRAIN
        assignment[places[is_free]] = np.where(in_both, OVERLAP, DUPLICATE)[is_free]


def split_units(
    units: Units, own_val: int, config: DataConfig, seed: int, assignment: np.ndarray, groups: Groups
) -> str:
    """Assign every unit, and return the rule that was applied, in words.

    Args:
        units: the units; the first `own_val` are of `data.val`.
        assignment: (units,) uint8: 0, or a reason why a unit is left out; the result is written to it.
        groups: the units that must be on one side of the split.

    Raises:
        DataError: one of the two splits would be empty.
    """
    drop(units.records, own_val, assignment, groups)
    groups.measure(units.records, assignment)
    if config.val is not None:
        own, others = assignment[:own_val], assignment[own_val:]
        own[own == TRAIN] = VAL
        for found, value, name in ((own, VAL, config.val), (others, TRAIN, "the corpus")):
            if not (found == value).any():
                raise DataError(
                    f"no example is left of {name}, which has {len(found):,}: all are equal to others, or have a "
                    "prompt that is validated on",
                    "give two files that differ (data.corpus and data.val)",
                )
        return f"validation on {config.val}"
    count, total = kept_sums(units.records, assignment, "bytes")
    target = int((config.val_fraction or default_val_bytes(total) / max(1, total)) * total)
    chosen = choose_by_hash(units.records, assignment, groups, target, seed)
    chosen = chosen or choose_few(units.records, assignment, groups, target, seed)
    return f"{chosen:,} of {count:,} examples, chosen by the hash of their prompts"


def choose_few(records: np.ndarray, assignment: np.ndarray, groups: Groups, target: int, seed: int) -> int:
    """Mark groups for validation until they have `target` bytes, where few or large groups make no better split.

    No group with more than half of all bytes is taken. Returns the number of marked units.

    Raises:
        DataError: all units are one group.
    """
    kept = np.flatnonzero(assignment == TRAIN)
    roots, group_of = np.unique(groups.firsts(kept), return_inverse=True)
    if len(roots) < 2:
        of = "there is one example" if len(kept) == 1 else f"all {len(kept):,} examples have one prompt"
        raise DataError(
            f"{of}, so that none can be validated on without being trained on",
            "validate on other examples: --set data.val=PATH",
        )
    sizes = np.bincount(group_of, records["bytes"][kept], len(roots))
    key = derive(np.zeros(1, dtype=np.uint64), seed)
    order = np.argsort(mix(np.asarray(records["high"][roots]) ^ key), kind="stable")
    order = order[sizes[order] <= sizes.sum() / 2]
    taken = order[: max(1, min(int(np.searchsorted(np.cumsum(sizes[order]), target)) + 1, len(roots) - 1))]
    marked = kept[np.isin(group_of, taken)]
    assignment[marked] = VAL
    return len(marked)
