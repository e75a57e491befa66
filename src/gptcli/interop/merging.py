"""The check that a model with a merged adapter computes what the adapter beside its base does."""

from __future__ import annotations

from dataclasses import replace

from gptcli.interop.adapted import NO_ADAPTER
from gptcli.interop.load import LoadedModel, load_model
from gptcli.interop.parity import ParityCheck, compare, parity_ids

EXACT = 1e-4
"""The largest difference of logits, as a fraction of the largest, that rounding explains: both are sums in fp32."""


def merge_checks(loaded: LoadedModel, path: str, checkpoint: str) -> tuple[ParityCheck, ...]:
    """Compare a model with a merged adapter, loaded from `path`, with the adapter beside its base.

    Returns:
        The comparison; nothing for a model without an adapter.
    """
    if loaded.adapter == NO_ADAPTER:
        return ()
    unmerged = load_model(path, checkpoint=checkpoint, merge=False)
    check = compare(loaded.model, "its base with the adapter beside it", unmerged.model, parity_ids(loaded))
    return (replace(check, how="merged in fp32, against", tolerance=EXACT),)
