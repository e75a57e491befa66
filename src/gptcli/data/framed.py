"""The framing of documents in a stream of tokens."""

from __future__ import annotations

import numpy as np

from gptcli.tokenizer.framing import DocumentFraming


def framed(
    ids: np.ndarray, places: np.ndarray, framing: DocumentFraming, begins_stream: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return `ids` with the framing of the documents that begin at `places`, ascending, and their new places.

    The token after a document's text is written when the next document begins, since the text may come in parts.

    Args:
        ids: (N,) the tokens.
        places: (documents,) the places in them at which documents begin.
        framing: the tokens around each document.
        begins_stream: whether no document was written before, so that there is no text to end.
    """
    between = np.array([*framing.after, *framing.before], dtype=ids.dtype)
    if not len(between) or not len(places):
        return ids, places
    inserted = np.repeat(places, len(between)), np.tile(between, len(places))
    whole = np.insert(ids, *inserted)
    starts = places + len(between) * np.arange(len(places)) + len(framing.after)
    if framing.after and begins_stream:
        whole, starts = np.delete(whole, places[0]), starts - 1
    return whole, starts
