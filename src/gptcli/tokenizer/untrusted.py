"""Checks whether an untrusted tokenizer.json can be used here: its bounds, and a trial in a limited process.

Tokenizers of a structure that is known to take time in proportion to the text (all that are made here, and those of
GPT-2, Llama 3 and Qwen) need no trial. The verdict on others is kept in the cache by the file's content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from gptcli import limited_process
from gptcli.errors import StorageError, TokenizerError
from gptcli.limited_process import LimitedProcessError, ProcessLimits
from gptcli.storage import default_cache_dir, open_nofollow, storage_errors, write_atomic
from gptcli.tokenizer.bounds import BoundsError, require_bounds
from gptcli.tokenizer.structure import is_known

TRIAL = "gptcli.tokenizer.trial"
TRIAL_VERSION = 1
"""Part of a verdict's name: raise it when the trial becomes stricter."""
BASE_SECONDS, BYTES_PER_SECOND = 5, 4_000_000
"""Processor time for the trial: a base, and the bytes of a file that a second allows to open."""
PATIENCE = 12
"""Wall-clock time after which the trial is stopped, as a multiple of its processor time: the machine may be busy."""
BASE_BYTES, BYTES_PER_BYTE = 2**28, 24
"""Memory for the trial: a base, and the bytes for each byte of the file."""
REMEDY = "use another tokenizer"


def require_usable(path: Path, spec: Mapping[str, Any], content: str) -> None:
    """Check the tokenizer.json at `path`, whose content is `spec`, before the library opens it in this process.

    Args:
        path: the file that errors name.
        spec: its content.
        content: the JSON text that will be opened.

    Raises:
        TokenizerError: it exceeds a bound, or it fails, grows or takes too long in the trial.
    """
    require_within_bounds(path, spec)
    if is_known(spec):
        return
    try:
        try_once(content)
    except LimitedProcessError as error:
        reason = str(error).removeprefix("PanicException: ")
        raise TokenizerError(f"{path} is not used: {reason}", REMEDY) from error


def require_within_bounds(path: Path, spec: Mapping[str, Any]) -> None:
    """Raise a TokenizerError if the content of the tokenizer.json at `path`, or a part of it, exceeds a bound."""
    try:
        require_bounds(spec)
    except BoundsError as error:
        raise TokenizerError(f"{path} is not used: {error}", REMEDY) from error


def try_once(content: str) -> None:
    """Try a tokenizer, unless the cache says that it passed."""
    data = content.encode()
    text = f"{TRIAL_VERSION} {tokenizers.__version__} {hashlib.sha256(data).hexdigest()}"
    passed = default_cache_dir() / "trials" / hashlib.sha256(text.encode()).hexdigest()[:32]
    if has_passed(passed, text):
        return
    seconds = BASE_SECONDS + len(data) // BYTES_PER_SECOND
    limits = ProcessLimits(BASE_BYTES + BYTES_PER_BYTE * len(data), seconds)
    with storage_errors("a temporary file"):
        limited_process.run(TRIAL, [], limits, PATIENCE * seconds, data)
    with contextlib.suppress(StorageError):  # a cache that cannot be written costs another trial
        write_atomic(passed, text + "\n")


def has_passed(passed: Path, text: str) -> bool:
    """Return whether the cache holds the verdict `text` at that path."""
    with contextlib.suppress(OSError, StorageError), os.fdopen(open_nofollow(passed, os.O_RDONLY), "rb") as file:
        return file.read(len(text) + 2) == f"{text}\n".encode()
    return False
