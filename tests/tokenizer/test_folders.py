"""Folders with vocab.json and merges.txt give the ids of transformers, class by class, or are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from gptcli.errors import TokenizerError
from gptcli.tokenizer.folders import CLASS_OF_MODEL, CLASSES, FORCED
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

transformers = pytest.importorskip("transformers")
END, IM = "<|endoftext|>", "<|im_end|>"
TEXTS = (
    "x 12345 y1984z 3.14",
    "\n\n\n a\n  b\r\nc \t d  ",
    "  leading, trailing  ",
    "中文没有空格 café cafe\u0301 🙂👩‍👩‍👧",
    f"one{END}two <|im_start|>user\nhi{IM}\n",
    "<s>a</s> <mask>b<pad> <tool> c<unk><|padding|>",
    "don't DON'T we'LL",
    "",
)


def table(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


def make_folder(folder: Path, bpe: Tokenizer, tokens: tuple[str, ...] = (END,)) -> int:
    """vocab.json and merges.txt of the bpe tokenizer with these special tokens at its end; returns its size."""
    vocabulary = {token: id for token, id in bpe.backend.get_vocab().items() if id != bpe.eos_id}
    vocabulary |= {token: len(vocabulary) + place for place, token in enumerate(tokens)}
    merges = "".join(f"{' '.join(pair)}\n" for pair in bpe.spec()["model"]["merges"])
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    return len(vocabulary)


def assert_as_transformers(folder: Path) -> Tokenizer:
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (theirs.bos_token_id, theirs.eos_token_id, len(theirs))
    for text in TEXTS:
        plain = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ours.encode(text) == plain, text
        marked = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, allow_special=True) == marked, text
        assert ours.decode(marked) == theirs.decode(marked, skip_special_tokens=True)
    return ours


FILES: dict[str, dict[str, Any]] = {
    "tokenizer_class alone": {"tokenizer_config.json": {}},
    "a blank is put before": {"tokenizer_config.json": {"add_prefix_space": True}},
    "added_tokens_decoder": {
        "tokenizer_config.json": {
            "eos_token": IM,
            "additional_special_tokens": ["<|im_start|>"],
            "added_tokens_decoder": {
                "SIZE": table("<|im_start|>"),
                "SIZE+1": table(IM),
                "SIZE+2": table("<tool>", special=False, rstrip=True),
            },
        }
    },
    "older files": {
        "tokenizer_config.json": {},
        "added_tokens.json": {"<tool>": "SIZE+1", IM: "SIZE"},
        "special_tokens_map.json": {"eos_token": table(IM), "mask_token": table("<mask>", lstrip=True)},
    },
}


def numbered(value: Any, size: int) -> Any:
    """SIZE and SIZE+n as numbers, in keys as text."""
    if isinstance(value, dict):
        return {str(numbered(key, size)): numbered(item, size) for key, item in value.items()}
    is_number = isinstance(value, str) and value.startswith("SIZE")
    return size + int(value.partition("+")[2] or 0) if is_number else value


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_whose_rules_are_known_has_the_ids_of_transformers(
    tmp_path: Path, bpe: Tokenizer, name: str, files: dict
) -> None:
    own = tuple(dict.fromkeys(token for token in CLASSES[name].tokens.values() if token))
    files = json.loads(json.dumps(files))
    if name == "Qwen2Tokenizer":  # which takes no true value there in transformers
        files["tokenizer_config.json"].pop("add_prefix_space", None)
    size = make_folder(tmp_path, bpe, own)
    files["tokenizer_config.json"]["tokenizer_class"] = name
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(numbered(content, size)), encoding="utf-8")
    ours = assert_as_transformers(tmp_path)
    assert ours.eos_id is not None, "the end of a text is found"
    ours.save(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved")
    assert [saved.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "qwen3", "gpt_neox", "roberta", "codegen"])
def test_the_kind_of_model_names_the_class_where_the_tokenizer_does_not(
    tmp_path: Path, bpe: Tokenizer, kind: str
) -> None:
    own = tuple(dict.fromkeys(token for token in CLASSES[CLASS_OF_MODEL[kind]].tokens.values() if token))
    make_folder(tmp_path, bpe, own)
    settings = {"tokenizer_class": "GPT2Tokenizer"} if kind in FORCED else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    assert_as_transformers(tmp_path)


def test_the_class_of_each_kind_of_model_is_that_of_transformers() -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    assert {kind: TOKENIZER_MAPPING_NAMES[kind] for kind in CLASS_OF_MODEL} == CLASS_OF_MODEL


@pytest.mark.parametrize(
    ("settings", "config", "words"),
    [
        ({"tokenizer_class": "CLIPTokenizer"}, None, "its tokenizer_class is CLIPTokenizer"),
        ({"tokenizer_class": "MyTokenizerFast", "auto_map": {}}, None, "its tokenizer_class is MyTokenizerFast"),
        ({}, {"model_type": "whisper"}, "its model_type is whisper"),
    ],
)
def test_a_class_whose_rules_are_not_known_is_refused(
    tmp_path: Path, bpe: Tokenizer, settings: dict, config: dict | None, words: str
) -> None:
    make_folder(tmp_path, bpe)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=words):
        load_tokenizer(tmp_path)


def test_the_remedy_of_a_refused_class_works_when_typed(tmp_path: Path, bpe: Tokenizer) -> None:
    folder = tmp_path / "a folder's tokenizer"
    folder.mkdir()
    make_folder(folder, bpe)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    with pytest.raises(TokenizerError) as refused:
        load_tokenizer(folder)
    command = str(refused.value).partition("write a tokenizer.json: ")[2]
    assert command.startswith("python -c ")
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True, capture_output=True)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    assert ours.encode(TEXTS[0]) == theirs(TEXTS[0], add_special_tokens=False)["input_ids"]


def test_an_added_token_that_would_get_another_id_is_refused(tmp_path: Path, bpe: Tokenizer) -> None:
    size = make_folder(tmp_path, bpe)
    (tmp_path / "added_tokens.json").write_text(json.dumps({IM: size + 7}))
    with pytest.raises(TokenizerError, match=f"should have the id {size + 7}, but the vocabulary gives it {size}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", [{"added_tokens_decoder": {"x": {"content": "a"}}}, {"added_tokens_decoder": [1]}])
def test_damaged_added_tokens_are_one_clear_line(tmp_path: Path, bpe: Tokenizer, damage: dict) -> None:
    make_folder(tmp_path, bpe)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(damage))
    with pytest.raises(TokenizerError, match="the added tokens are damaged"):
        load_tokenizer(tmp_path)


def test_special_tokens_map_names_the_end_of_text_beside_a_tokenizer_json(tmp_path: Path, bpe: Tokenizer) -> None:
    bpe.backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": table("the"), "bos_token": None}))
    backend = load_tokenizer(tmp_path).backend
    backend.add_special_tokens([AddedToken("<eos>")])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": table("<eos>")}))
    assert load_tokenizer(tmp_path).eos_id == backend.token_to_id("<eos>") != bpe.eos_id
