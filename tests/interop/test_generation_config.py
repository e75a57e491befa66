"""generation_config.json lists the tokens at which programs stop a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GenerationConfig

from gptcli.data.chat_template import ChatTemplate
from gptcli.errors import CheckpointError
from gptcli.interop.adapted import write_adapter
from gptcli.interop.base_reference import BaseReference
from gptcli.interop.generation_config import generation_config, read_stop_ids
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.import_model import import_model
from gptcli.interop.load import load_model
from gptcli.models.adapter_config import LoraConfig
from gptcli.models.adapters import add_adapter
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer


def test_one_stop_token_is_a_number_and_several_are_a_list(tokenizer: Tokenizer) -> None:
    eos = tokenizer.eos_id
    assert generation_config(tokenizer, [eos]) == {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}
    assert generation_config(tokenizer, [9, 3, 9])["eos_token_id"] == [eos, 3, 9]


def test_the_end_of_an_answer_is_listed_beside_an_adapter_too(
    tmp_path: Path, tokenizer: Tokenizer, our_model: Callable[..., GPT]
) -> None:
    template = ChatTemplate.of_model(tokenizer, "chatml")
    chatty = tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)
    model = add_adapter(our_model(vocab_size=chatty.vocab_size), LoraConfig(rank=2), seed=0)
    write_adapter(model, LoraConfig(rank=2), BaseReference("base", "0" * 64), chatty, tmp_path, stop_ids=())
    assert read_stop_ids(tmp_path) == {chatty.eos_id, chatty.backend.token_to_id("<|im_end|>")}


@pytest.mark.parametrize("given", [[5, 7], 6, None], ids=str)
def test_what_transformers_writes_is_read(tmp_path: Path, given: object) -> None:
    GenerationConfig(eos_token_id=given).save_pretrained(tmp_path)
    assert read_stop_ids(tmp_path) == set(given if isinstance(given, list) else [given] if given else [])


def test_without_a_generation_config_the_models_own_config_counts(tmp_path: Path) -> None:
    assert read_stop_ids(tmp_path) == set()
    (tmp_path / "config.json").write_text('{"eos_token_id": [2, 4]}')
    assert read_stop_ids(tmp_path) == {2, 4}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": -1}')
    assert read_stop_ids(tmp_path) == set()


@pytest.mark.parametrize("given", ["</s>", [1, "2"], True, [1.5], {}], ids=str)
def test_what_is_no_token_is_refused(tmp_path: Path, given: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
    with pytest.raises(CheckpointError, match=r"generation_config.json: eos_token_id is .*, not the id of a token"):
        read_stop_ids(tmp_path)


def test_stop_tokens_are_kept_by_writing_and_by_importing(
    tmp_path: Path, tokenizer: Tokenizer, our_model: Callable[..., GPT]
) -> None:
    write_huggingface(our_model(), tokenizer, tmp_path / "model", stop_ids=(3, 5))
    expected = {tokenizer.eos_id, 3, 5}
    assert load_model(tmp_path / "model").stop_ids == expected
    import_model(str(tmp_path / "model"), tmp_path / "imported")
    assert load_model(tmp_path / "imported").stop_ids == expected
