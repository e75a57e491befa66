"""Calls of the `tokenizers` library: its errors, also panics of its Rust code, become TokenizerErrors, and a call that
takes too long for its text is abandoned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from gptcli.errors import GptcliError, TokenizerError, first_line, is_panic
from gptcli.interruptible import CallThread

Result = TypeVar("Result")

BASE_SECONDS, CHARACTERS_PER_SECOND = 8.0, 20_000
"""Processor time for a call and for its text: a tenth of the speed of the slowest tokenizers known."""


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn errors of the library into TokenizerErrors that begin with `what`."""
    try:
        yield
    except GptcliError:  # raised by a signal handler
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise TokenizerError(f"{what}: {first_line(error)}") from error


def call_within(function: Callable[[], Result], characters: int) -> Result:
    """Return `function()`, which works on a text of this many characters, in a thread; signals are handled meanwhile.

    Raises:
        TokenizerError: it takes more processor time than any tokenizer needs for such a text. The thread runs on until
            the process ends.
    """
    seconds = BASE_SECONDS + characters / CHARACTERS_PER_SECOND
    began = time.process_time()

    def watch(waited: float) -> None:
        if time.process_time() - began > seconds:
            raise TokenizerError(
                f"the tokenizer takes more than {seconds:.0f} s for a text of {characters:,} characters",
                "use another tokenizer",
            )

    return CallThread(function).result(watch)
