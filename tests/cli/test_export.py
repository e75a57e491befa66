"""`gptcli export` as the user runs it: what goes to stdout, exit codes, one line for each error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import gptcli
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    shape = {"vocab_size": tokenizer.vocab_size, "context_length": 32, "n_layer": 1, "n_head": 2, "n_embd": 32}
    write_huggingface(build_model(ModelConfig(**shape)), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_stdout_says_what_was_written_and_how_it_was_proved(model, tmp_path):
    done = gptcli("export", model, "--to", "hf", "--out", tmp_path / "out")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == f"{tmp_path / 'out'}: hf, f32"
    assert lines[-1].startswith("read back by transformers") and "max |Δlogit|" in lines[-1]


def test_json_is_one_object(model, tmp_path):
    pytest.importorskip("gguf")
    out = tmp_path / "model.gguf"
    done = gptcli("export", model, "--to", "gguf", "--quantize", "q8_0", "--out", out, "--json")
    report = json.loads(done.stdout)
    assert (report["path"], report["format"], report["numbers"]) == (str(out), "gguf", "q8_0")
    proof = {"reader", "max_difference", "largest_logit", "greedy_agreement", "tokens", "how", "tolerance"}
    assert set(report["proofs"][0]) == proof


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--to", "hf", "--quantize", "q8_0"), 2, "holds no quantized weights"),
        (("--to", "hf", "--dtype", "f16", "--quantize", "q8_0"), 2, "give one of them"),
    ],
)
def test_a_mistake_is_one_line(model, tmp_path, arguments, code, words):
    done = gptcli("export", model, "--out", tmp_path / "out", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert words in done.stderr
