"""Decoding of ids as they come, in whole characters only.

All pieces of a stream joined are `decode` of all its ids, to the character, invalid UTF-8 included.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping

import tokenizers
from tokenizers.decoders import DecodeStream

from gptcli.errors import TokenizerError
from gptcli.tokenizer.library import library_errors


class ByteStream:
    """Stream for byte-level tokenizers: an incremental UTF-8 decoder, which holds back three bytes at most.

    `DecodeStream` would hold back everything while the text ends in U+FFFD, which a model may well write on purpose.
    """

    def __init__(self, token_bytes: Mapping[int, bytes]) -> None:
        self.token_bytes = token_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, token: int) -> str:
        """Return the characters that are complete now that `token` has come; special and unknown ids add nothing."""
        return self.decoder.decode(self.token_bytes.get(token, b""))

    def finish(self) -> str:
        """Return what is left when no id follows: U+FFFD for an incomplete character, otherwise nothing."""
        return self.decoder.decode(b"", final=True)


class BackendStream:
    """Stream for every other decoder: the `tokenizers` library's stream, and at the end the text that it held back.

    It is exact if more ids only lengthen the decoded text. A decoder that changes earlier text (byte fallback turns a
    whole run of bytes into U+FFFD when its end is invalid) cannot be streamed exactly, since the pieces returned before
    cannot be changed.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        self.stream: DecodeStream | None = DecodeStream(skip_special_tokens=True)
        self.ids: list[int] = []
        self.emitted = 0

    def step(self, token: int) -> str:
        """Return the characters that are complete now that `token` has come."""
        self.ids.append(token)
        if self.stream is None:
            return ""
        try:
            with library_errors("the tokenizer cannot decode its tokens"):
                piece = self.stream.step(self.backend, token) or ""
        except TokenizerError:  # the decoder changed earlier text: the rest comes at the end
            self.stream = None
            return ""
        self.emitted += len(piece)
        return piece

    def finish(self) -> str:
        """Return what is left when no id follows."""
        with library_errors("the tokenizer cannot decode its tokens"):
            rest = self.backend.decode(self.ids)[self.emitted :]
        self.emitted += len(rest)
        return rest
