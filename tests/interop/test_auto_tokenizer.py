"""What AutoTokenizer and AutoModelForCausalLM open is the run's own, for every class and tokenizer that we write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers.models.auto import tokenization_auto

from gptcli.errors import CheckpointError
from gptcli.interop.auto_tokenizer import FORCED, QWEN2_SPLIT, TRIED_TEXTS, as_opened, keeps_tokenizer
from gptcli.interop.export import ExportRequest, export
from gptcli.interop.families import FAMILIES
from gptcli.interop.huggingface import read_huggingface, write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer
from interop.shapes import FAMILIES as SHAPES
from interop.shapes import ODD, QWEN2

CHARACTERS = "".join(TRIED_TEXTS)
TOKENIZERS = {
    "char": CharTokenizerConfig(),
    "byte": ByteTokenizerConfig(),
    "bpe": BpeTokenizerConfig(vocab_size=340),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def made_here(request: pytest.FixtureRequest) -> Tokenizer:
    return build_tokenizer(TOKENIZERS[request.param], lambda: iter([CHARACTERS * 3]))


def model_for(tokenizer: Tokenizer, **slots: object) -> GPT:
    sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 32, "n_layer": 1, "n_head": 4, "n_embd": 32}
    return build_model(ModelConfig(**(sizes | slots)))


def assert_same(theirs: transformers.PreTrainedTokenizerBase, ours: Tokenizer) -> None:
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    for text in (*TRIED_TEXTS, CHARACTERS):
        ids = ours.encode(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids, text
        assert theirs(text)["input_ids"] == ours.encode(text, allow_special=True), text
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids) == text


@pytest.mark.parametrize("family", SHAPES)
def test_every_class_that_we_write_opens_with_the_ids_and_text_of_the_run(
    tmp_path: Path, made_here: Tokenizer, family: str
) -> None:
    opened = write_huggingface(model_for(made_here, **SHAPES[family][1]), made_here, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert opened == f"transformers opens it as {type(model).__name__}"
    assert_same(transformers.AutoTokenizer.from_pretrained(tmp_path), made_here)


def test_the_table_of_kinds_is_that_of_transformers() -> None:
    """A later version may force the tokenizer of other kinds of models: this test then says so."""
    forced = {
        family.name
        for family in FAMILIES
        if family.name in tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        and tokenization_auto.TOKENIZER_MAPPING_NAMES.get(family.name) != "TokenizersBackend"
    }
    assert forced == set(FORCED)


def qwen2_tokenizer(texts: list[str]) -> Tokenizer:
    """A tokenizer that splits as Qwen2's does, so that its class can stay."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer, backend.decoder = normalizers.NFC(), decoders.ByteLevel()
    split = pre_tokenizers.Split(tokenizers.Regex(QWEN2_SPLIT), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    backend.add_tokens(["<tool>"])
    return Tokenizer(backend, {"bos_token": None, "eos_token": "<|endoftext|>"})


def test_a_tokenizer_with_qwen2_s_rules_keeps_qwen2_s_class(tmp_path: Path) -> None:
    ours = qwen2_tokenizer([CHARACTERS])
    assert keeps_tokenizer("qwen2", ours.spec())
    assert write_huggingface(model_for(ours, **QWEN2), ours, tmp_path).endswith("Qwen2ForCausalLM")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Qwen2Tokenizer"
    for text in (*TRIED_TEXTS, "a<tool>b<|im_start|>c"):
        assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text)
        assert theirs(text)["input_ids"] == ours.encode(text, allow_special=True)


def test_where_no_class_keeps_the_tokenizer_the_message_and_the_card_name_what_opens_it(
    tmp_path: Path, made_here: Tokenizer
) -> None:
    slots = QWEN2 | ODD | {"n_head": 4}
    write_huggingface(model_for(made_here, **slots), made_here, tmp_path / "model")
    exported = export(ExportRequest(str(tmp_path / "model"), "hf", tmp_path / "out"))
    assert "Qwen2ForCausalLM, and its tokenizer with PreTrainedTokenizerFast" in exported.notes[0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'PreTrainedTokenizerFast.from_pretrained("out")' in card and " AutoTokenizer.from" not in card
    assert_same(transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "out"), made_here)
    forced = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    simulated = as_opened(tmp_path / "out")
    for text in TRIED_TEXTS:
        assert simulated.encode(text).ids == forced(text)["input_ids"], "the table does what transformers does"


def test_a_damaged_tokenizer_is_found_without_transformers(tmp_path: Path, made_here: Tokenizer, monkeypatch) -> None:
    """The file that was written is read back by the tokenizers library alone."""

    def save_another(directory: Path) -> None:
        spec = made_here.spec()
        spec["pre_tokenizer"] = {"type": "Digits", "individual_digits": True}
        spec["normalizer"] = {"type": "Lowercase"}
        (directory / "tokenizer.json").write_text(json.dumps(spec))

    monkeypatch.setattr(made_here, "save", save_another)
    with pytest.raises(CheckpointError, match="other tokens than the model was trained on"):
        write_huggingface(model_for(made_here), made_here, tmp_path)


def test_a_model_of_qwen2_in_llama_s_class_is_the_same_model(tmp_path: Path, made_here: Tokenizer) -> None:
    model = model_for(made_here, **QWEN2)
    assert write_huggingface(model, made_here, tmp_path).endswith("LlamaForCausalLM")
    again, _ = read_huggingface(tmp_path)
    saved = model.state_dict()
    for name, tensor in again.state_dict().items():
        assert (tensor == saved.get(name, tensor * 0)).all(), name
