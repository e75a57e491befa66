"""One class for every tokenizer: encoding and decoding of texts, batches and streams.

Whatever its kind, a tokenizer is one `tokenizers.Tokenizer` saved as tokenizer.json. Those trained here normalise
nothing, so that decoding restores the exact text wherever the vocabulary can represent it. Special tokens in a text are
not recognised unless asked for: a corpus that quotes "<|endoftext|>" holds thirteen characters, not the end of a
document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from gptcli import strict_json
from gptcli.errors import TokenizerError
from gptcli.manifest import require_unchanged
from gptcli.tokenizer.byte_level import token_bytes
from gptcli.tokenizer.encode import encode_pieces, encoder_for
from gptcli.tokenizer.files import (
    CHAT_TEMPLATE_FILE,
    DEFAULT_TEMPLATE,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    templates_by_name,
    write_files,
)
from gptcli.tokenizer.folders import read_tokenizer
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.library import call_within, library_errors
from gptcli.tokenizer.segments import Segment, SegmentEncoder
from gptcli.tokenizer.special import added_before, find_bos_id, find_eos_id, find_unk_id, named_id
from gptcli.tokenizer.stream import BackendStream, ByteStream
from gptcli.tokenizer.structure import is_byte_level, is_known, is_lossless, kind_name

FRAMING = "document_framing"
"""The key of tokenizer_config.json for a framing that does not follow from the special tokens."""
NAMED_TOKENS = ("sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that only a chat template knows by name."""
KEPT_SETTINGS = (FRAMING, *NAMED_TOKENS, "model_max_length", "chat_template", "add_bos_token", "add_eos_token")
"""Settings of a loaded tokenizer_config.json that save() writes again: none that names a class or code of its own."""


class Tokenizer:
    """Encodes text to ids and decodes ids to text.

    Attributes:
        backend: the `tokenizers.Tokenizer`; treats special tokens in a text as text.
        is_lossless: whether decoding certainly restores every text.
        name: the kind: `char`, `byte`, `bpe`, or the type of another library's model.
        vocab_size: one more than the largest id.
        eos_id: the token that ends a document, or None.
        bos_id: the token that begins a document, or None; for tokenizers trained here the same as `eos_id`, as in
            GPT-2.
        framing: the tokens around each document in the training of a model with this tokenizer.
        unk_id: the token for a character that the vocabulary lacks, or None.
        fingerprint: hex SHA-256 of the canonical JSON of the tokenizer with the ids of these special tokens.
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: Mapping[str, Any] | None = None) -> None:
        """Wrap `backend`; `settings` are the contents of a tokenizer_config.json, which name the special tokens."""
        with library_errors("the tokenizer cannot be used"):
            backend.encode_special_tokens = True  # not part of tokenizer.json
            self.backend = backend
            spec = self.spec()
            self.settings = dict(settings or {})
            self.name = kind_name(spec)
            self.encoder = encoder_for(backend, spec)
            self.is_known = is_known(spec)
            self.is_byte_level = is_byte_level(spec)
            self.is_lossless = is_lossless(spec)
            self.vocab_size = 1 + max(backend.get_vocab().values(), default=-1)
            self.eos_id = find_eos_id(backend, self.settings)
            self.bos_id = find_bos_id(backend, self.settings, self.eos_id)
            self.unk_id = find_unk_id(backend, spec)
            if self.vocab_size == 0:
                raise TokenizerError("the tokenizer's vocabulary is empty", "train it on some text")

    def spec(self) -> dict[str, Any]:
        """Return the content of tokenizer.json."""
        spec: dict[str, Any] = strict_json.parse(self.backend.to_str())
        return spec

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the canonical JSON of the tokenizer with the ids of its special tokens."""
        canonical = strict_json.dumps([self.spec(), self.bos_id, self.eos_id], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def kept_settings(self) -> dict[str, Any]:
        """The settings that `save` writes again."""
        return {key: self.settings[key] for key in KEPT_SETTINGS if key in self.settings}

    @cached_property
    def framing(self) -> DocumentFraming:
        """The tokens around each document in the training of a model with this tokenizer.

        Raises:
            TokenizerError: tokenizer_config.json describes a framing that is not possible.
        """
        given = self.settings.get(FRAMING)
        if given is None:
            return DocumentFraming.of(self.bos_id, self.eos_id)
        try:
            begin, end = (named_id(self.backend, given[key]) for key in ("begin_token", "end_token"))
        except (KeyError, TypeError) as error:
            raise TokenizerError(
                f"{SETTINGS_FILE}: {FRAMING} is damaged", f"remove {FRAMING} from that file"
            ) from error
        return DocumentFraming.of(begin, end)

    def with_framing(self, framing: DocumentFraming) -> Tokenizer:
        """Return this tokenizer for a model whose training used another framing than its special tokens imply."""
        if framing == self.framing:
            return self
        ids = {"begin_token": framing.begin_id, "end_token": framing.end_id}
        named = {key: None if id is None else self.backend.id_to_token(id) for key, id in ids.items()}
        return Tokenizer(self.backend, {**self.settings, FRAMING: named})

    def with_special_tokens(self, names: Sequence[str]) -> Tokenizer:
        """Return this tokenizer with special tokens of these names; those that it lacks get ids after the largest.

        A name that is a token already keeps its id.

        Raises:
            TokenizerError: a name is empty, or the library gives a new token another id.
        """
        missing = [name for name in dict.fromkeys(names) if name not in self.segment_encoder.special_ids]
        if not missing:
            return self
        if not all(name.strip() for name in missing):
            raise TokenizerError("a special token has no name", "give every special token a text")
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        new = [name for name in missing if backend.token_to_id(name) is None]
        with library_errors("the special tokens cannot be added"):
            backend.add_special_tokens(
                [tokenizers.AddedToken(name, special=True, normalized=False) for name in missing]
            )
        for place, name in enumerate(new):
            if backend.token_to_id(name) != self.vocab_size + place:
                raise TokenizerError(
                    f"the special token {name!r} cannot be added after the id {self.vocab_size + place - 1:,}",
                    "use a tokenizer whose ids have no gaps",
                )
        return Tokenizer(backend, self.settings)

    def with_chat_template(self, source: str) -> Tokenizer:
        """Return this tokenizer with another chat template."""
        if source == self.chat_template:
            return self
        return Tokenizer(self.backend, {**self.settings, "chat_template": source})

    def for_export(self) -> Tokenizer:
        """Return this tokenizer for programs that use special tokens only: its bos and eos are those of the framing.

        Nothing then puts another bos before a text. The fingerprint may differ.
        """
        if FRAMING not in self.settings:
            return self
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        if not self.adds_bos and added_before(backend) is not None:
            backend.post_processor = None
        ids = {"bos_token": self.framing.begin_id, "eos_token": self.framing.stop_id}
        named = {key: None if id is None else backend.id_to_token(id) for key, id in ids.items()}
        kept = {key: value for key, value in self.settings.items() if key != FRAMING}
        return Tokenizer(backend, {**kept, **named, "add_bos_token": self.adds_bos})

    @cached_property
    def adds_bos(self) -> bool:
        """Whether a text given to a model of this tokenizer is expected to begin with `bos_id`."""
        if self.bos_id is None or self.bos_id != self.framing.begin_id:
            return False
        if isinstance(added := self.settings.get("add_bos_token"), bool):
            return added
        return added_before(self.backend) == self.bos_id

    @property
    def chat_template(self) -> str | None:
        """The Jinja template by which a model of this tokenizer reads conversations; None if there is none."""
        return templates_by_name(self.settings.get("chat_template")).get(DEFAULT_TEMPLATE)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the ids of `text`; with `allow_special`, the names of special tokens in it become those tokens.

        Raises:
            TokenizerError: the text holds a surrogate, which is not a character and has no UTF-8.
        """
        if allow_special:
            arrays = encode_pieces(self.special_backend, [text], self.is_known)
        else:
            arrays = self.encode_batch([text])
        ids: list[int] = arrays[0].tolist()
        return ids

    @cached_property
    def special_backend(self) -> tokenizers.Tokenizer:
        """A copy that recognises special tokens: switching one shared backend would be a race between threads."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = False
        return backend

    def encode_batch(self, texts: Iterable[str]) -> list[np.ndarray]:
        """Return the ids of every text, uint32. Memory grows with the ids only, beside some megabytes."""
        return self.encoder.encode_batch(texts)

    def encode_segments(self, segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids (T,) uint32 of a text in segments, and for each whether it is in the loss, (T,) bool.

        Raises:
            TokenizerError: a segment is not the special token that it says to be, or a text cannot be encoded.
        """
        parts = self.segment_encoder.encode(segments)
        flags = np.array([segment.in_loss for segment in segments], dtype=bool)
        ids = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)
        return ids, np.repeat(flags, [len(part) for part in parts])

    @cached_property
    def segment_encoder(self) -> SegmentEncoder:
        """The encoder of texts that are given in segments, in which the special tokens are those of tokenizer.json and
        those that tokenizer_config.json names.
        """
        named = (self.bos_id, self.eos_id, self.unk_id, self.framing.begin_id, self.framing.end_id)
        ids = {self.backend.id_to_token(id) or "": id for id in named if id is not None}
        return SegmentEncoder(self.backend, self.spec(), ids, self.encode_batch)

    def clear_cache(self) -> None:
        """Free the memory that makes encoding faster and grows with the text."""
        self.encoder.clear_cache()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of `ids`, without special tokens and ids outside the vocabulary.

        Bytes that are not UTF-8 become U+FFFD, as in Unicode's recommended practice.
        """
        with library_errors("the tokenizer cannot decode its tokens"):
            return self.backend.decode(np.asarray(ids, dtype=np.int64).tolist())

    def encoding(self, text: str) -> tokenizers.Encoding:
        """Return the library's encoding of `text`, which has the places of the tokens in it, without special tokens."""
        encode = partial(self.backend.encode, text, add_special_tokens=False)
        with library_errors("the tokenizer cannot encode the text"):
            return encode() if self.is_known else call_within(encode, len(text))

    def decode_stream(self) -> ByteStream | BackendStream:
        """Return an object whose `step(id)` gives the characters that became complete and `finish()` what is left."""
        return ByteStream(self.bytes_of_id) if self.is_byte_level else BackendStream(self.backend)

    @cached_property
    def bytes_of_id(self) -> dict[int, bytes]:
        """The bytes that every token of a byte-level tokenizer adds to a decoded text; special tokens add none."""
        return {id: token_bytes(token) for token, id in self.backend.get_vocab().items() if id not in self.special_ids}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids that `decode` leaves out."""
        return frozenset(id for id, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def token_text(self, token: int) -> str:
        r"""Return one token for display, with incomplete characters as \xNN.

        Raises:
            TokenizerError: the vocabulary has no such id.
        """
        self.require_known([token])
        if self.is_byte_level and token not in self.special_ids:
            return self.bytes_of_id[token].decode(errors="backslashreplace")
        return self.backend.id_to_token(token) or ""

    def require_known(self, ids: Iterable[int]) -> None:
        """Raise a TokenizerError that names the first id that the vocabulary lacks."""
        for token in ids:
            if not 0 <= token < self.vocab_size or self.backend.id_to_token(token) is None:
                raise TokenizerError(f"id {token} is not in the vocabulary", f"use ids from 0 to {self.vocab_size - 1}")

    def require_representable(self, text: str) -> None:
        """Raise a TokenizerError that names the first character of `text` that the vocabulary lacks, and its place."""
        if self.unk_id is None or self.unk_id not in self.encode(text):
            return
        encoding = self.encoding(text)
        start, end = encoding.offsets[encoding.ids.index(self.unk_id)]
        unknown = text[start:end]
        code = f" (U+{ord(unknown):04X})" if len(unknown) == 1 else ""
        raise TokenizerError(
            f"the tokenizer's vocabulary lacks {unknown!r}{code}, character {start + 1} of the text",
            "leave it out, or use a model whose tokenizer is byte or bpe",
        )

    def save(self, directory: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja (for a tokenizer that has a template),
        which transformers' AutoTokenizer opens with the same ids.

        The tokenizer class is the one that uses tokenizer.json unchanged, whatever model is beside it.
        """
        special = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.unk_id}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **self.kept_settings,
            **{key: None if id is None else self.backend.id_to_token(id) for key, id in special.items()},
        }
        write_files(directory, self.backend, settings)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, or a folder with one or with vocab.json and merges.txt.

    The tokenizer_config.json in the same folder, if there is one, names the special tokens, and chat_template.jinja is
    its chat template.

    Raises:
        TokenizerError: it is missing, damaged, no tokenizer, or of a class whose rules are not known.
        CheckpointError: it is a file of a run or model of ours and is not as it was written.
        StorageError: a file cannot be read.
    """
    directory = path if path.is_dir() else path.parent
    vocabulary = TOKENIZER_FILE if path.is_dir() else path.name
    require_unchanged(directory, vocabulary, *{SETTINGS_FILE, CHAT_TEMPLATE_FILE} - {vocabulary})
    return Tokenizer(*read_tokenizer(path))
