"""Tokenizers of other programs: the files that are read, the special tokens, and the errors."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, processors

from gptcli.errors import StorageError, TokenizerError
from gptcli.tokenizer.config import FileTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer
from special_tokens import with_specials


def spec_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.backend.to_str())


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def vocabulary_folder(bpe: Tokenizer, tmp_path: Path) -> Path:
    """The bpe tokenizer in the form of GPT-2's release."""
    spec = spec_of(bpe)
    write(tmp_path / "vocab.json", bpe.backend.get_vocab())
    merges = "".join(f"{' '.join(pair)}\n" for pair in spec["model"]["merges"])
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges)
    return tmp_path


def test_vocab_and_merges_are_the_tokenizer_they_were_written_from(
    vocabulary_folder: Path, bpe: Tokenizer, hard_texts: tuple
) -> None:
    loaded = build_tokenizer(FileTokenizerConfig(path=str(vocabulary_folder)), lambda: iter(()))
    assert (loaded.name, loaded.vocab_size, loaded.eos_id, loaded.bos_id) == ("bpe", 340, 339, 339)
    for text in (*hard_texts, "<|endoftext|>"):
        assert loaded.encode(text) == bpe.encode(text)
        assert loaded.decode(loaded.encode(text)) == text


def test_gpt2_s_own_vocabulary(shared: Path, hard_texts: tuple) -> None:
    gpt2 = load_tokenizer(shared / "tokenizers/gpt2")
    assert gpt2.encode("Hello world") == [15496, 995]
    assert (gpt2.vocab_size, gpt2.eos_id, gpt2.bos_id, gpt2.unk_id) == (50257, 50256, 50256, None)
    for text in hard_texts:
        assert gpt2.decode(gpt2.encode(text)) == text


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_vocab_without_merges_and_the_other_way_round_name_what_is_missing(
    vocabulary_folder: Path, missing: str
) -> None:
    (vocabulary_folder / missing).unlink()
    with pytest.raises(TokenizerError, match=f"no {missing}"):
        load_tokenizer(vocabulary_folder)


def test_a_vocabulary_that_is_not_byte_level_is_refused(vocabulary_folder: Path) -> None:
    write(vocabulary_folder / "vocab.json", {"a": 0, "b": 1})
    (vocabulary_folder / "merges.txt").write_text("")
    with pytest.raises(TokenizerError, match="not a byte-level vocabulary"):
        load_tokenizer(vocabulary_folder)


def test_merges_of_another_vocabulary_are_refused(vocabulary_folder: Path) -> None:
    (vocabulary_folder / "merges.txt").write_text("Q Q\nQQ X\n")
    with pytest.raises(TokenizerError, match="out of vocabulary"):
        load_tokenizer(vocabulary_folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"not json at all", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "no JSON object"),
        (b'{"a": 0, "b": 1}', "has no model"),
        (b'{"model": {"type": "BPE"}}', "not a tokenizer"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a c"]}}', "not a tokenizer"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}', "not a tokenizer"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', ""),
    ],
)
def test_a_file_that_is_not_a_tokenizer_gives_one_clear_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_path_and_an_empty_folder_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="does not exist; give a tokenizer"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(TokenizerError, match="holds no tokenizer; give a tokenizer"):
        load_tokenizer(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_storage_error(bpe: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        bpe.save(tmp_path / "file")


def test_truncation_padding_and_dropout_of_a_file_do_not_reach_the_ids(bpe: Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(bpe.backend.to_str())
    backend.enable_truncation(max_length=3)
    backend.enable_padding(length=50, pad_id=7)
    backend.model.dropout = 0.5
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    text = "the miller's daughter said the frost came " * 20
    assert all(loaded.encode(text) == bpe.encode(text) for _ in range(3))


def test_tokens_of_a_post_processor_are_not_added(bpe: Tokenizer, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(bpe.backend.to_str())
    end = "<|endoftext|>"
    backend.post_processor = processors.TemplateProcessing(single=f"{end} $A", special_tokens=[(end, bpe.eos_id)])
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("the") == bpe.encode("the")
    assert loaded.encode("the", allow_special=True) == bpe.encode("the")
    assert loaded.adds_bos and not bpe.adds_bos


@pytest.mark.parametrize(
    ("names", "bos", "eos"),
    [
        (("<|endoftext|>",), 256, 256),
        (("<s>", "</s>"), 256, 257),
        (("<|begin_of_text|>", "<|end_of_text|>"), 256, 257),
        (("<bos>", "<eos>"), 256, 257),
        (("<|im_start|>",), None, None),
        ((), None, None),
    ],
)
def test_special_tokens_are_known_by_their_usual_names(names: tuple, bos: int | None, eos: int | None) -> None:
    tokenizer = Tokenizer(with_specials(*names))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (bos, eos)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bos_token": "<b>", "eos_token": "<e>"}, (257, 258, False)),
        ({"bos_token": {"content": "<b>", "special": True}, "eos_token": {"content": "<e>"}}, (257, 258, False)),
        ({"bos_token": None, "eos_token": "<e>"}, (None, 258, False)),
        ({"bos_token": "<b>", "add_bos_token": True}, (257, 256, True)),
        ({"bos_token": None, "add_bos_token": True}, (None, 256, False)),
        ({"eos_token": "<unheard of>"}, (256, None, False)),
        ({}, (256, 256, False)),
    ],
)
def test_tokenizer_config_names_the_special_tokens(tmp_path: Path, settings: dict, expected: tuple) -> None:
    with_specials("<|endoftext|>", "<b>", "<e>").save(str(tmp_path / "tokenizer.json"))
    write(tmp_path / "tokenizer_config.json", settings)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = load_tokenizer(path)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos) == expected
    tokenizer.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert (again.bos_id, again.eos_id, again.adds_bos) == expected
    assert again.fingerprint == tokenizer.fingerprint


def test_a_damaged_tokenizer_config_is_refused(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(tmp_path)


def test_saving_hands_on_the_chat_template_but_no_code(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    settings = {
        "eos_token": "<|endoftext|>",
        "chat_template": "{{ messages }}",
        "auto_map": {"AutoTokenizer": ["evil.Code", None]},
        "tokenizer_class": "EvilTokenizer",
    }
    write(tmp_path / "tokenizer_config.json", settings)
    load_tokenizer(tmp_path).save(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert written["chat_template"] == "{{ messages }}"
    assert "auto_map" not in written and written["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_half_a_character_in_the_settings_is_saved_and_read_back(bpe: Tokenizer, tmp_path: Path) -> None:
    template = "{{ '\ud800' }} ü"
    Tokenizer(bpe.backend, {"eos_token": "<|endoftext|>", "chat_template": template}).save(tmp_path)
    assert load_tokenizer(tmp_path).settings["chat_template"] == template


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"bos_token": 5}, "bos_token does not name a token"),
        ({"eos_token": ["</s>"]}, "eos_token does not name a token"),
        ({"extra_special_tokens": 5}, "extra_special_tokens does not name a token"),
        ({"additional_special_tokens": [None]}, "additional_special_tokens does not name a token"),
        ({"unk_token": {"content": 3}}, "unk_token does not name a token"),
        ({"pad_token": "\ud800"}, "special tokens of .* cannot be added"),
    ],
)
def test_special_tokens_that_are_none_are_one_clear_line(
    vocabulary_folder: Path, settings: dict[str, object], reason: str
) -> None:
    write(vocabulary_folder / "tokenizer_config.json", settings)
    with pytest.raises(TokenizerError, match=reason):
        load_tokenizer(vocabulary_folder)


def test_the_vocabulary_size_is_one_more_than_the_largest_id(tmp_path: Path) -> None:
    spec = {"model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 41}, "unk_token": "<unk>"}}
    tokenizer = load_tokenizer(write(tmp_path / "tokenizer.json", {"version": "1.0", "added_tokens": [], **spec}))
    assert (tokenizer.vocab_size, tokenizer.unk_id, tokenizer.name) == (42, 41, "wordlevel")
    with pytest.raises(TokenizerError, match="id 7 is not in the vocabulary"):
        tokenizer.require_known([0, 7])


def test_a_unigram_tokenizer_names_what_it_cannot_represent() -> None:
    pieces = [("<unk>", 0.0), *((character, -random.Random(0).random()) for character in "abc d")]
    tokenizer = Tokenizer(tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0)))
    assert tokenizer.unk_id == 0
    tokenizer.require_representable("a bad cab")
    with pytest.raises(TokenizerError, match=r"'é'.*character 3"):
        tokenizer.require_representable("a é")


def test_a_tokenizer_that_fails_on_a_text_is_a_clear_error(tmp_path: Path) -> None:
    spec = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}}
    tokenizer = load_tokenizer(write(tmp_path / "tokenizer.json", {"version": "1.0", "added_tokens": [], **spec}))
    with pytest.raises(TokenizerError, match="cannot encode the text"):
        tokenizer.encode("b")


def test_a_chat_template_is_also_a_file_of_its_own_which_counts_more(bpe: Tokenizer, tmp_path: Path) -> None:
    """transformers 5 writes only the file, and reads it in place of the key of tokenizer_config.json."""
    transformers = pytest.importorskip("transformers")
    Tokenizer(bpe.backend, {"eos_token": "<|endoftext|>", "chat_template": "{{ 1 }}\n"}).save(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ 1 }}\n"
    (tmp_path / "chat_template.jinja").write_text("{{ 2 }}")
    assert load_tokenizer(tmp_path).chat_template == "{{ 2 }}"
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert theirs.chat_template == "{{ 2 }}"
    theirs.save_pretrained(tmp_path / "theirs")
    assert "chat_template" not in json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    assert load_tokenizer(tmp_path / "theirs").chat_template == "{{ 2 }}"
    bpe.save(tmp_path)
    assert load_tokenizer(tmp_path).chat_template is None
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template.jinja is not UTF-8 at byte 0"):
        load_tokenizer(tmp_path)


TOOL_TEMPLATE = {"name": "tool_use", "template": "{{ tools }}"}
NAMED_TEMPLATES = [{"name": "default", "template": "{{ messages }}"}, TOOL_TEMPLATE]


@pytest.mark.parametrize("form", ["text", "list", "file", "files", "file over text"])
def test_chat_templates_are_read_in_every_form_of_transformers_and_kept(
    bpe: Tokenizer, tmp_path: Path, form: str
) -> None:
    from transformers import AutoTokenizer

    bpe.save(tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    values = {"text": "{{ messages }}", "list": NAMED_TEMPLATES, "file over text": "{{ other }}"}
    write(tmp_path / "tokenizer_config.json", written | ({"chat_template": values[form]} if form in values else {}))
    if form.startswith("file"):
        (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    if form == "files":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.save(tmp_path / "again")
    expected = (
        {"default": "{{ messages }}", "tool_use": "{{ tools }}"} if form in ("list", "files") else "{{ messages }}"
    )
    for folder in (tmp_path, tmp_path / "again"):
        assert load_tokenizer(folder).chat_template == "{{ messages }}"
        assert AutoTokenizer.from_pretrained(folder).chat_template == expected
    replaced = tokenizer.with_chat_template("{{ new }}")
    assert replaced.chat_template == "{{ new }}" and tokenizer.with_chat_template("{{ messages }}") is tokenizer
