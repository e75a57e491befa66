"""The framing of documents follows from the tokenizer's special tokens, or from tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import processors

from gptcli.errors import TokenizerError
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from special_tokens import with_specials

BOS, EOS, CHAT_END = "<|endoftext|>", "</s>", "<|im_end|>"
IDS = {name: 256 + place for place, name in enumerate(("<s>", EOS, BOS, CHAT_END))}


@pytest.mark.parametrize(
    ("bos", "eos", "begin", "end", "stop"),
    [(1, 2, 1, 2, 2), (2, 2, 2, None, 2), (None, 2, 2, None, 2), (1, None, 1, None, 1), (None, None, None, None, None)],
)
def test_two_tokens_stand_around_a_text_and_one_between_texts(bos, eos, begin, end, stop) -> None:
    framing = DocumentFraming.of(bos, eos)
    assert (framing.begin_id, framing.end_id, framing.stop_id) == (begin, end, stop)
    assert framing.overhead == len(framing.before) + len(framing.after) == sum(id is not None for id in (begin, end))


@pytest.mark.parametrize(
    ("settings", "begin", "end"),
    [
        ({"bos_token": "<s>", "eos_token": EOS}, "<s>", EOS),
        ({"bos_token": "<s>", "eos_token": None}, "<s>", None),
        ({"bos_token": None, "eos_token": EOS}, EOS, None),
        ({"bos_token": BOS, "eos_token": CHAT_END}, BOS, CHAT_END),
        ({"eos_token": CHAT_END}, CHAT_END, None),  # <|endoftext|> would only be a guess
        ({"eos_token": BOS}, BOS, None),
        ({}, "<s>", BOS),
    ],
)
def test_no_token_is_guessed_to_begin_documents_beside_a_named_end(settings: dict, begin: str, end: str | None) -> None:
    tokenizer = Tokenizer(with_specials(*IDS), settings)
    assert tokenizer.framing == DocumentFraming(IDS[begin], end and IDS[end])


def test_the_token_that_the_tokenizer_adds_is_no_guess() -> None:
    backend = with_specials(*IDS)
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", IDS["<s>"])])
    backend.post_processor = template
    tokenizer = Tokenizer(backend, {"eos_token": CHAT_END})
    assert tokenizer.framing == DocumentFraming(IDS["<s>"], IDS[CHAT_END]) and tokenizer.adds_bos
    assert tokenizer.for_export() is tokenizer
    # Of a model that has never seen that token, prompts do not begin with it.
    other = tokenizer.with_framing(DocumentFraming(IDS[CHAT_END]))
    exported = other.for_export()
    assert not other.adds_bos and not exported.adds_bos
    assert (exported.bos_id, exported.eos_id, exported.framing) == (IDS[CHAT_END], IDS[CHAT_END], other.framing)
    assert exported.backend.encode("a").ids == tokenizer.encode("a") == exported.encode("a")
    assert tokenizer.backend.encode("a").ids == [IDS["<s>"], *tokenizer.encode("a")]  # itself left as it is


@pytest.mark.parametrize("framing", [(256, 257), (256, None), (257, None), (None, None)])
def test_what_is_exported_says_the_framing_in_the_usual_keys(framing: tuple, tmp_path: Path) -> None:
    tokenizer = Tokenizer(with_specials(*IDS), {"bos_token": BOS, "eos_token": CHAT_END, "add_bos_token": True})
    tokenizer.with_framing(DocumentFraming(*framing)).for_export().save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "document_framing" not in settings and settings["add_bos_token"] is False
    assert load_tokenizer(tmp_path).framing == DocumentFraming(*framing)


def test_another_framing_is_kept_on_disk_and_leaves_the_fingerprint_as_it_is(tmp_path: Path) -> None:
    tokenizer = Tokenizer(with_specials(*IDS), {"bos_token": "<s>", "eos_token": EOS})
    for framing in (DocumentFraming(IDS[EOS]), DocumentFraming(IDS["<s>"]), DocumentFraming(None), tokenizer.framing):
        tokenizer.with_framing(framing).save(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert (loaded.framing, loaded.fingerprint) == (framing, tokenizer.fingerprint)
    assert "document_framing" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


@pytest.mark.parametrize("damaged", ["<s>", {"begin_token": "<s>"}, 3])
def test_a_damaged_framing_is_refused(damaged: object) -> None:
    with pytest.raises(TokenizerError, match="document_framing"):
        assert Tokenizer(with_specials(*IDS), {"document_framing": damaged}).framing
