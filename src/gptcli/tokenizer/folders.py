"""Reading of a tokenizer: a tokenizer.json, or a folder with one or with vocab.json and merges.txt.

vocab.json and merges.txt do not say how text is split into words. The tokenizer class of transformers does, which
tokenizer_config.json or config.json names. They are read as that class in transformers 5 reads them. A class whose
rules are not known here is refused, because its ids would be silently wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from gptcli import strict_json
from gptcli.console import shell_word
from gptcli.errors import TokenizerError
from gptcli.storage import LARGE, read_regular, storage_errors
from gptcli.tokenizer.byte_level import BYTE_OF_CHARACTER
from gptcli.tokenizer.files import (
    CHAT_TEMPLATE_FILE,
    MERGES_FILE,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    WHAT_TO_GIVE,
    build,
    read_chat_templates,
    read_json,
    read_tokenizer_json,
    templates_as_setting,
)
from gptcli.tokenizer.library import library_errors
from gptcli.tokenizer.special import END_OF_TEXT
from gptcli.tokenizer.structure import LINE_SPLITS
from gptcli.tokenizer.untrusted import require_within_bounds

SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"
"""Older files for what tokenizer_config.json now holds."""
CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    *(TOKENIZER_FILE, SETTINGS_FILE, VOCAB_FILE, MERGES_FILE),
    *(SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE, CONFIG_FILE, CHAT_TEMPLATE_FILE),
)
"""All files of a folder that a tokenizer may be read from."""

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ClassRules:
    """The rules of a tokenizer class beyond its vocabulary and merges.

    Attributes:
        split: the pattern of its words; None for GPT-2's.
        is_nfc: whether it normalizes text to Unicode's form NFC.
        are_tokens_bare: whether its special tokens take in no blanks beside them, whatever the files say.
        tokens: the special tokens that it uses where no file names one.
    """

    split: str | None = None
    is_nfc: bool = False
    are_tokens_bare: bool = False
    tokens: Mapping[str, str | None] = field(default_factory=dict)


_, QWEN2_SPLIT = LINE_SPLITS
GPT2 = ClassRules(tokens=dict.fromkeys(("unk_token", "bos_token", "eos_token"), END_OF_TEXT))
GPT_NEOX = ClassRules(is_nfc=True, tokens={**GPT2.tokens, "pad_token": "<|padding|>"})
QWEN2 = ClassRules(
    split=QWEN2_SPLIT,
    is_nfc=True,
    are_tokens_bare=True,
    tokens={"bos_token": None, **dict.fromkeys(("unk_token", "eos_token", "pad_token"), END_OF_TEXT)},
)
ROBERTA = ClassRules(
    tokens={
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
)
CLASSES: dict[str, ClassRules] = {
    "GPT2Tokenizer": GPT2,
    "CodeGenTokenizer": GPT2,
    "GPTNeoXTokenizer": GPT_NEOX,
    "Qwen2Tokenizer": QWEN2,
    "RobertaTokenizer": ROBERTA,
    "BartTokenizer": ROBERTA,
}
CLASS_OF_MODEL = {
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "codegen", "phi", "opt"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gpt_neox", "olmo"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("roberta", "bart"), "RobertaTokenizer"),
}
"""Tokenizer classes by model_type, for folders without a tokenizer_class."""
FORCED = ("qwen2",)
"""Model types whose tokenizer is of CLASS_OF_MODEL whatever its files say."""


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return the tokenizer at `path`, and the settings of its special tokens from the files beside it.

    Raises:
        TokenizerError: it is missing, damaged, no tokenizer, or of a class whose rules are not known.
        StorageError: a file cannot be read.
    """
    if not path.exists():
        raise TokenizerError(f"tokenizer {path} does not exist", WHAT_TO_GIVE)
    if path.is_file():
        return read_tokenizer_json(path), read_settings(path.parent) if path.name == TOKENIZER_FILE else {}
    if (path / TOKENIZER_FILE).exists():
        return read_tokenizer_json(path / TOKENIZER_FILE), read_settings(path)
    vocabulary, merges = path / VOCAB_FILE, path / MERGES_FILE
    present = [file for file in (vocabulary, merges) if file.exists()]
    if not present:
        raise TokenizerError(f"{path} holds no tokenizer", WHAT_TO_GIVE)
    if len(present) == 1:
        missing = merges if present == [vocabulary] else vocabulary
        raise TokenizerError(f"{path} has {present[0].name} but no {missing.name}", "put both into the folder")
    return read_vocabulary(path)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in tokenizer_config.json and, in older folders, special_tokens_map.json, or {}; the chat
    templates are those of chat_template.jinja and additional_chat_templates, if there are any.
    """
    path, older = folder / SETTINGS_FILE, folder / SPECIAL_TOKENS_FILE
    settings = read_json(path) if path.exists() else {}
    if "added_tokens_decoder" not in settings and older.exists():
        settings |= read_json(older)
    templates = read_chat_templates(folder)
    return {**settings, "chat_template": templates_as_setting(templates)} if templates else settings


def read_vocabulary(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return the tokenizer of a folder with vocab.json and merges.txt, and its settings with those that its class adds.

    Raises:
        TokenizerError: a file is damaged, or the rules of the tokenizer class are not known.
    """
    settings = read_settings(folder)
    name = class_name(folder, settings)
    rules = ClassRules() if name is None else CLASSES[name]
    vocabulary, merges = folder / VOCAB_FILE, folder / MERGES_FILE
    words = read_json(vocabulary)
    require_within_bounds(vocabulary, {"model": {"vocab": words}})
    with storage_errors(merges, "read"):
        read_regular(merges, LARGE)  # the library opens it by itself, and would wait for a pipe
    model = build(folder, lambda: models.BPE.from_file(str(vocabulary), str(merges)))
    if missing := BYTE_OF_CHARACTER.keys() - words.keys():
        raise TokenizerError(
            f"{vocabulary} is not a byte-level vocabulary: {len(missing)} bytes lack a token", WHAT_TO_GIVE
        )
    backend = split_backend(model, rules, bool(settings.get("add_prefix_space", False)))
    settings = {**rules.tokens, **settings}
    with library_errors(f"the special tokens of {folder} cannot be added"):
        if name is None and END_OF_TEXT in words:  # as GPT-2's release has it
            backend.add_special_tokens([END_OF_TEXT])
        add_tokens(backend, folder, settings)
        if rules.are_tokens_bare:
            backend.add_special_tokens([AddedToken(text_of(token), special=True) for token in special_tokens(settings)])
    return backend, settings


def class_name(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the tokenizer class of the folder, one of CLASSES; None if nothing names one or the model type.

    Raises:
        TokenizerError: its rules are not known.
    """
    config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else {}
    kind = config.get("model_type")
    if kind in FORCED:
        return CLASS_OF_MODEL[kind]
    given = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if given is None and kind is None:
        return None
    name = str(given).removesuffix("Fast") if given else CLASS_OF_MODEL.get(str(kind), "")
    if name in CLASSES:
        return name
    what = f"its tokenizer_class is {str(given)[:80]}" if given else f"its model_type is {str(kind)[:80]}"
    place = strict_json.dumps(str(folder), ensure_ascii=False)
    code = f"from transformers import AutoTokenizer as A; A.from_pretrained({place}).save_pretrained({place})"
    raise TokenizerError(
        f"{folder} has {VOCAB_FILE} and {MERGES_FILE} but no tokenizer.json, and {what}, whose way to split text is "
        f"not known here ({', '.join(CLASSES)} are)",
        f"have transformers write a tokenizer.json: python -c {shell_word(code)}",
    )


def split_backend(model: models.BPE, rules: ClassRules, add_prefix_space: bool) -> tokenizers.Tokenizer:
    """Return byte-level BPE with the split and the normal form of a class."""
    backend = tokenizers.Tokenizer(model)
    backend.decoder = decoders.ByteLevel()
    if rules.is_nfc:
        backend.normalizer = normalizers.NFC()
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=rules.split is None)
    if rules.split is None:
        backend.pre_tokenizer = bytes_of_words
    else:
        split = pre_tokenizers.Split(Regex(rules.split), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of_words])
    return backend


def add_tokens(backend: tokenizers.Tokenizer, folder: Path, settings: Mapping[str, Any]) -> None:
    """Add the tokens that the files declare, by number, and then those that they or the class name: the order of
    transformers.

    Raises:
        TokenizerError: a token would not get the number that its file declares.
    """
    named = {name: None for value in special_tokens(settings) for name in [text_of(value)]}
    declared = declared_tokens(folder, settings, set(named))
    backend.add_tokens([declared[number] for number in sorted(declared)])
    for number, token in declared.items():
        if (found := backend.token_to_id(token.content)) != number:
            raise TokenizerError(
                f"{folder}: the added token {token.content!r} should have the id {number:,}, but the vocabulary "
                f"gives it {found:,}",
                f"fetch {VOCAB_FILE}, {ADDED_TOKENS_FILE} and {SETTINGS_FILE} of the same tokenizer",
            )
    known = {token.content for token in declared.values()}
    backend.add_special_tokens(
        [as_token(value, is_special=True) for value in special_tokens(settings) if text_of(value) not in known]
    )


def declared_tokens(folder: Path, settings: Mapping[str, Any], special: set[str]) -> dict[int, AddedToken]:
    """Return the added tokens by id: `added_tokens_decoder` of tokenizer_config.json, or the older
    added_tokens.json.
    """
    decoder, older = settings.get("added_tokens_decoder"), folder / ADDED_TOKENS_FILE
    try:
        if decoder is not None:
            return {
                int(number): as_token(token, is_special=bool(token.get("special")) or token["content"] in special)
                for number, token in decoder.items()
            }
        content = read_json(older) if older.exists() else {}
        return {
            int(number): AddedToken(name, special=name in special, normalized=name not in special)
            for name, number in content.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        where = SETTINGS_FILE if decoder is not None else ADDED_TOKENS_FILE
        raise TokenizerError(f"{folder / where}: the added tokens are damaged", "fetch the file again") from error


def special_tokens(settings: Mapping[str, Any]) -> Iterator[Any]:
    """Iterate over the special tokens that the settings name, each as it is named: a text, or a table with its
    `content`.

    Raises:
        TokenizerError: one of them is neither.
    """
    named = [(key, settings[key]) for key in NAMED_TOKENS if settings.get(key)]
    named += [
        (key, value)
        for key, value in settings.items()
        if key.endswith("_token") and key not in NAMED_TOKENS and isinstance(value, str)
    ]
    key = "extra_special_tokens" if settings.get("extra_special_tokens") else "additional_special_tokens"
    extra = settings.get(key) or []
    extra = list(extra.values()) if isinstance(extra, Mapping) else extra
    named += [(key, value) for value in (extra if isinstance(extra, list) else [None])]
    for key, value in named:
        if not isinstance(value["content"] if isinstance(value, Mapping) and "content" in value else value, str):
            raise TokenizerError(f"{SETTINGS_FILE}: {key} does not name a token", "fetch the file again")
        yield value


def text_of(token: Any) -> str:
    """Return the text of a token that is given by it or by a table."""
    return str(token["content"]) if isinstance(token, Mapping) and "content" in token else str(token)


def as_token(token: Any, *, is_special: bool) -> AddedToken:
    """Return a token for the tokenizers library, from its text or its table."""
    table = token if isinstance(token, Mapping) else {}
    flags = {name: bool(table.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    normalized = bool(table.get("normalized", not is_special))
    return AddedToken(text_of(token), normalized=normalized, special=is_special, **flags)
