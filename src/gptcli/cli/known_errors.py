"""Conversion of errors of Python and the system to errors with a remedy."""

from __future__ import annotations

import os
import signal

from gptcli.errors import (
    DataError,
    GptcliError,
    OutOfMemoryError,
    Stopped,
    StorageError,
    UsageError,
    first_line,
    is_panic,
)
from gptcli.storage import storage_error

SURROGATES = ("\ud800", "\udfff")
"""The range of surrogates, by which Python represents bytes that are not UTF-8."""

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""Phrases in the RuntimeError that torch raises when an allocation fails on a CPU."""
SMALLER = "make the model, the batch or the input smaller"


def as_gptcli_error(error: BaseException) -> GptcliError | None:
    """Return the error as one that the user can act on, or None if it is a bug."""
    match error:
        case GptcliError():
            return error
        case KeyboardInterrupt():
            return Stopped("stopped by SIGINT", signal.SIGINT, "run the same command again")
        case MemoryError():
            return OutOfMemoryError("there is not enough memory", SMALLER)
        case RuntimeError() if any(words in str(error) for words in OUT_OF_MEMORY):
            return OutOfMemoryError(f"there is not enough memory: {first_line(error)}", SMALLER)
        case OSError(filename=str() | bytes() as path) if error.strerror:
            return storage_error(os.fsdecode(path), error, "use")
        case OSError():
            return StorageError(first_line(error))
        case UnicodeEncodeError(object=str() as text, start=start, encoding=encoding):
            if SURROGATES[0] <= text[start] <= SURROGATES[1]:
                around = text[max(0, start - 40) : start + 40]
                return UsageError(f"{around!r} has bytes that are not UTF-8", "write it in UTF-8")
            return UsageError(f"{text[start]!r} cannot be written in {encoding}", "set PYTHONUTF8=1")
        case _ if is_panic(error):
            return DataError(f"a library failed on its input: {first_line(error)}")
    return None
