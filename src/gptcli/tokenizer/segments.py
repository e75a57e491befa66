"""Encoding of a text that is given in segments, such as a rendered conversation: special tokens are segments of their
own, and no token crosses the cut between two segments of text.

The ids are those of the whole text with its special tokens recognised, wherever no token of the whole text would cross
a cut. A tokenizer in the manner of sentencepiece puts a blank before a text: here it does so where it does in the whole
text, and not after a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from gptcli.errors import TokenizerError
from gptcli.tokenizer.library import library_errors
from gptcli.tokenizer.structure import joins_plainly

CONTEXTS = ("\n", ".", "(", "x", "1")
"""Texts to encode before a text that continues another one; the first is used that keeps its own ids."""
PROBES = ("a", "e", ".", "1")
"""Texts that tell whether a tokenizer treats the text after a special token as the beginning of one."""
LONGEST_CONTEXT = 4096
"""Characters before a cut that are encoded again with the text after it, at most."""
NO_IDS = np.empty(0, dtype=np.uint32)

EncodeBatch = Callable[[Sequence[str]], list[np.ndarray]]


class Segment(NamedTuple):
    """A part of a text.

    Attributes:
        text: its characters; the name of exactly one special token if `is_special`.
        is_special: whether it is that token; otherwise it is text, whatever it looks like.
        in_loss: whether a model learns to write it.
    """

    text: str
    is_special: bool
    in_loss: bool


class SegmentEncoder:
    """Encodes segments with a tokenizer.

    Attributes:
        special_ids: the ids of the special tokens by name.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        spec: Mapping[str, Any],
        named: Mapping[str, int],
        encode_batch: EncodeBatch,
    ) -> None:
        """Take the parts of a tokenizer.

        Args:
            backend: the library's tokenizer.
            spec: the content of its tokenizer.json.
            named: the ids of special tokens that tokenizer.json may have as ordinary ones.
            encode_batch: a function that encodes texts without special tokens.
        """
        self.backend, self.encode_batch = backend, encode_batch
        self.joins_plainly = joins_plainly(spec)
        added = [token for token in spec.get("added_tokens") or () if token["special"]]
        self.special_ids = {**named, **{token["content"]: token["id"] for token in added}}
        self.stripping = {
            token["content"]: (token["lstrip"], token["rstrip"])
            for token in added
            if token["lstrip"] or token["rstrip"]
        }
        """Whether a special token takes the white space before it and after it."""
        self.begins: dict[str, bool] = {}

    def encode(self, segments: Sequence[Segment]) -> list[np.ndarray]:
        """Return the ids of every segment, uint32.

        Raises:
            TokenizerError: a segment is not the special token that it says to be, or a text cannot be encoded.
        """
        segments = self.stripped(segments) if self.stripping else segments
        if self.joins_plainly:
            texts = iter(self.encode_batch([text for text, is_special, _ in segments if text and not is_special]))
        else:
            texts = iter(self.continued(segments))
        return [
            self.special(text) if is_special else next(texts) if text else NO_IDS for text, is_special, _ in segments
        ]

    def special(self, name: str) -> np.ndarray:
        """Return the id of a special token, in an array."""
        token = self.special_ids.get(name)
        if token is None:
            raise TokenizerError(f"the tokenizer has no special token {name!r}")
        return np.array([token], dtype=np.uint32)

    def stripped(self, segments: Sequence[Segment]) -> list[Segment]:
        """Return the segments without the white space that the special tokens beside it take."""
        result = list(segments)
        for place, (name, is_special, _) in enumerate(segments):
            for takes, step in zip(self.stripping.get(name, ()) if is_special else (), (-1, 1), strict=False):
                beside = place + step
                while takes and 0 <= beside < len(result) and not result[beside].is_special:
                    text = result[beside].text
                    result[beside] = result[beside]._replace(text=text.rstrip() if step < 0 else text.lstrip())
                    takes, beside = not result[beside].text, beside + step
        return result

    def continued(self, segments: Sequence[Segment]) -> list[np.ndarray]:
        """Return the ids of every segment of text that is not empty, for a tokenizer whose ids depend on what is before
        a text.
        """
        texts: list[tuple[tuple[str, ...], str]] = []
        before, begins = "", True
        for text, is_special, _ in segments:
            if is_special:
                before, begins = "", self.begins_after(text)
            elif text:
                nearest = (before[-LONGEST_CONTEXT:],) if before else ()
                texts.append(((), text) if begins and not before else ((*nearest, *CONTEXTS), text))
                before += text
        firsts = [contexts[0] if contexts else "" for contexts, _ in texts]
        wholes = [first + text for first, (_, text) in zip(firsts, texts, strict=True)]
        encoded = self.encode_batch([*firsts, *wholes])
        return [
            self.continuation(contexts, text, alone, whole)
            for (contexts, text), alone, whole in zip(texts, encoded, encoded[len(texts) :], strict=False)
        ]

    def continuation(self, contexts: Sequence[str], text: str, alone: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Return the ids of a text that comes after another one.

        Args:
            contexts: texts that may stand for the other one; none if the text is the beginning of a text.
            text: the text.
            alone: the ids of the first context.
            whole: the ids of the first context and the text, joined.
        """
        if not contexts or (len(alone) and np.array_equal(whole[: len(alone)], alone)):
            return whole[len(alone) :] if contexts else whole
        others = contexts[1:]
        first = others[0] if others else ""
        return self.continuation(others, text, *self.encode_batch([first, first + text]))

    def begins_after(self, name: str) -> bool:
        """Return whether a text after this special token is encoded as the beginning of a text is."""
        if name not in self.begins:
            with library_errors("the tokenizer cannot encode a special token"):
                encoded = [
                    (self.recognising.encode(name + probe, add_special_tokens=False).ids, self.encode_batch([probe])[0])
                    for probe in PROBES
                ]
            self.begins[name] = all(whole[1:] == alone.tolist() for whole, alone in encoded)
        return self.begins[name]

    @cached_property
    def recognising(self) -> tokenizers.Tokenizer:
        """A copy of the backend that recognises special tokens in a text."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = False
        return backend
