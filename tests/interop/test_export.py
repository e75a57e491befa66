"""`export`: what is written, the parity check that comes with it, and what is refused before anything is read."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml

from gptcli.config import Config
from gptcli.data.shards import ShardWriter
from gptcli.errors import CheckpointError, UsageError
from gptcli.interop import export as exporting
from gptcli.interop.export import ExportRequest, export
from gptcli.interop.huggingface import read_huggingface, write_huggingface
from gptcli.interop.import_model import import_model
from gptcli.interop.load import load_model
from gptcli.interop.parity import ParityCheck, compare, parity_ids, require_exact
from gptcli.models.config import ModelConfig
from gptcli.tokenizer.config import CharTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer
from interop import stand_in_llama_cpp

GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "bias": True, "qk_norm": False}
NANO = GPT2 | {"mlp": "gelu", "norm_eps": 1e-5, "tie_embeddings": True}
FAST = {"smear": True, "bigram_buckets": 50}


class Data(Config):
    corpus: tuple[str, ...] = ("/home/me/secret/book.txt", "hf:someone/corpus")


class Optim(Config):
    name: str = "muon"
    lr: float = 0.02


class Resolved(Config):
    model: ModelConfig
    data: Data = Data()
    optim: Optim = Optim()


@pytest.fixture
def run(our_model, make_run) -> Path:
    """A run as training leaves it, with checkpoints at steps 10 (the best) and 20, whose weights are negated."""
    model = our_model(n_kv_head=2)
    config = Resolved(model=model.config)
    run = make_run(model, config, {10: 1.5, 20: 2.0}, lambda tensor, step: tensor if step == 10 else -tensor)
    summary = {"steps": 20, "tokens": 4000, "train_seconds": 12.3, "train_loss": 1.25, "val_loss": 1.5}
    summary["val_loss_interval"] = [1.47, 1.53]
    (run.path / "summary.json").write_text(json.dumps(summary | {"val_bits_per_byte": 2.1}))
    counts = {"documents": 7, "bytes": 1234}
    data = {"train": counts, "val": counts | {"documents": 1}, "train_tokens": 1300, "split_rule": "chosen by hash"}
    (run.path / "data.json").write_text(json.dumps(data))
    return run.path


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_run_is_written_in_the_numbers_asked_for_and_proved_by_transformers(run, tmp_path, dtype):
    exported = export(ExportRequest(str(run), "hf", tmp_path / "out", dtype=dtype))
    (check,) = exported.checks
    assert check.reader.startswith("transformers ")
    assert (check.max_difference < 1e-4) == (dtype == "f32")
    assert check.max_difference < (1 if dtype == "bf16" else 0.1)
    assert (check.greedy_agreement == 1.0 or dtype != "f32") and check.tokens == 256
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert theirs.dtype == exporting.DTYPES[dtype]


@pytest.mark.parametrize(("checkpoint", "sign"), [("best", 1), ("last", -1), ("10", 1)])
def test_the_checkpoint_asked_for_is_exported(run, our_model, tmp_path, checkpoint, sign):
    export(ExportRequest(str(run), "hf", tmp_path / "out", checkpoint=checkpoint))
    exported = read_huggingface(tmp_path / "out")[0].embedding.weight
    torch.testing.assert_close(exported, sign * our_model(n_kv_head=2).embedding.weight, atol=0, rtol=0)


def test_a_model_directory_is_exported_as_a_run_is(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(**GPT2), tokenizer, tmp_path / "model")
    exported = export(ExportRequest(str(tmp_path / "model"), "hf", tmp_path / "out"))
    assert exported.checks[0].max_difference < 1e-4
    assert "GPT2LMHeadModel" in exported.notes[0]


def test_a_model_without_a_class_says_so_and_is_proved_by_us(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(**FAST), tokenizer, tmp_path / "model")
    exported = export(ExportRequest(str(tmp_path / "model"), "hf", tmp_path / "out"))
    assert "no class that computes this model" in exported.notes[0]
    assert exported.checks[0].reader == "gptcli" and exported.checks[0].max_difference == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: gptcli" in card and "from transformers" not in card and "smear must be off" in card


def test_without_transformers_a_line_says_what_is_missing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "is_installed", lambda package: package != "transformers")
    exported = export(ExportRequest(str(run), "hf", tmp_path / "out"))
    assert "transformers is not installed, so it did not check the export" in exported.notes
    assert exported.checks[0].reader == "gptcli"


def test_the_card_tells_what_the_run_recorded_and_no_path_of_this_machine(run, tmp_path):
    export(ExportRequest(str(run), "hf", tmp_path / "my-model", license="apache-2.0", dtype="bf16"))
    card = (tmp_path / "my-model" / "README.md").read_text()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gptcli", "pytorch", "causal-lm"],
    }
    for words in (
        "# my-model",
        "`book.txt`, `hf:someone/corpus`",
        "Training split: 7 documents, 1,234 bytes, 1,300 tokens",
        "Validation split: 1 document, 1,234 bytes",
        "Validation is chosen by hash.",
        "muon, peak learning rate 0.02",
        "20 steps, 4,000 tokens, 12 seconds",
        "Validation loss: 1.500 (1.470 to 1.530) nats a token (perplexity 4.48 (4.35 to 4.62))",
        "Validation bits per byte: 2.100",
        "the weights here are of step 10, val loss 1.5000.",
        "stored in bf16",
        'from_pretrained("my-model")',
        "`apache-2.0`",
    ):
        assert words in body, words
    assert "/home/me" not in card and str(tmp_path) not in card


@pytest.mark.parametrize("to", ["hf", "gguf", "nanogpt", pytest.param("onnx", marks=pytest.mark.slow)])
def test_nothing_that_is_exported_holds_a_path_of_this_machine(run, our_model, tmp_path, to):
    model = str(run)
    if to == "nanogpt":  # of characters, for which there is a second file
        characters = build_tokenizer(CharTokenizerConfig(), lambda: iter(["some text\n"]))
        model = str(tmp_path / "model")
        write_huggingface(our_model(**NANO, vocab_size=characters.vocab_size), characters, Path(model))
    export(ExportRequest(model, to, tmp_path / "exported" / to))
    written = [path for path in (tmp_path / "exported").rglob("*") if path.is_file()]
    assert written
    for path in written:
        for place in (tmp_path, "/home/me", Path(exporting.__file__).parents[2], Path(torch.__file__).parents[1]):
            assert str(place).encode() not in path.read_bytes(), f"{place} is in {path.name}"


def test_a_card_without_a_licence_does_not_make_one_up(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(), tokenizer, tmp_path / "model")
    export(ExportRequest(str(tmp_path / "model"), "hf", tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "unknown"
    assert "Not stated" in card and "## Training" not in card and "## Data" not in card


def test_the_code_on_the_card_runs(run, tmp_path, monkeypatch, capsys):
    export(ExportRequest(str(run), "hf", tmp_path / "tiny"))
    code = (tmp_path / "tiny" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.startswith("Once upon a time")


@pytest.mark.parametrize("numbers", ["f32", "q8_0"])
def test_gguf_is_proved_from_the_file_alone(our_model, tokenizer, tmp_path, numbers):
    pytest.importorskip("gguf")
    write_huggingface(our_model(n_embd=64), tokenizer, tmp_path / "model")
    quantize = None if numbers == "f32" else numbers
    exported = export(ExportRequest(str(tmp_path / "model"), "gguf", tmp_path / "m.gguf", quantize=quantize))
    check = exported.checks[0]
    assert check.reader.startswith("gguf ")
    assert (check.max_difference < 1e-5) == (numbers == "f32")
    assert check.greedy_agreement > 0.9
    assert exported.as_dict()["proofs"][0]["max_difference"] == check.max_difference


def test_llama_cpp_is_a_second_reader_where_it_is_installed(our_model, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setitem(sys.modules, "llama_cpp", stand_in_llama_cpp)
    monkeypatch.setattr(exporting, "is_installed", lambda package: True)
    write_huggingface(our_model(n_embd=64), tokenizer, tmp_path / "model")
    exported = export(ExportRequest(str(tmp_path / "model"), "gguf", tmp_path / "m.gguf"))
    assert [check.reader.split()[0] for check in exported.checks] == ["gguf", "llama-cpp-python"]
    assert exported.checks[1].max_difference < 1e-4 and exported.checks[1].greedy_agreement == 1
    assert not exported.notes


def test_another_tokenizer_in_a_reader_is_refused(our_model, tokenizer, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setitem(sys.modules, "llama_cpp", stand_in_llama_cpp)
    monkeypatch.setattr(exporting, "is_installed", lambda package: True)
    monkeypatch.setattr(
        stand_in_llama_cpp.Llama, "tokenize", lambda self, text, add_bos, special: [*text[:9], 7, *text[10:]]
    )
    write_huggingface(our_model(n_embd=64), tokenizer, tmp_path / "model")
    with pytest.raises(CheckpointError, match="number 10 is the first to differ"):
        export(ExportRequest(str(tmp_path / "model"), "gguf", tmp_path / "m.gguf"))


def test_validation_text_of_the_run_is_what_is_compared_on(run, tokenizer):
    with ShardWriter(run / "val", tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        writer.add(torch.arange(250).numpy() % 7, 250, starts=True)
        writer.add(torch.arange(50).numpy() % 5, 50, starts=True)
    ids = parity_ids(load_model(run))
    assert ids.shape == (4, 64)
    assert ids.flatten().tolist() == [256, *(i % 7 for i in range(250)), 256, *(i % 5 for i in range(4))]


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_text_that_quotes_a_special_token_is_no_difference(run, tokenizer, tmp_path, to):
    pytest.importorskip("gguf")
    with ShardWriter(run / "val", tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        ids = tokenizer.encode("What ends a text is written <|endoftext|>. " * 10)
        writer.add(np.array(ids), len(ids), starts=True)
    assert len(ids) > 256
    assert export(ExportRequest(str(run), to, tmp_path / "out")).checks[0].is_exact


@torch.no_grad()
def test_a_parity_check_says_how_far_and_how_often(our_model, some_ids):
    model = our_model()
    shifted = compare(model, "another", lambda ids: model(ids) + 0.5, some_ids)
    assert (round(shifted.max_difference, 4), shifted.greedy_agreement) == (0.5, 1.0)
    reversed_ = compare(model, "another", lambda ids: -model(ids), some_ids)
    assert reversed_.greedy_agreement < 0.05
    assert reversed_.max_difference == pytest.approx(2 * reversed_.largest_logit)
    broken = compare(model, "another", lambda ids: model(ids) * float("nan"), some_ids)
    assert not broken.is_exact


def test_a_file_that_computes_something_else_is_refused():
    require_exact([ParityCheck("x", 1e-5, 10.0, 1.0, 256)], Path("model"))
    with pytest.raises(CheckpointError, match="model does not compute what the model does: read back by x"):
        require_exact([ParityCheck("x", 1e-5, 10.0, 1.0, 256), ParityCheck("x", 0.5, 10.0, 0.9, 256)], Path("model"))


def test_a_reader_that_gives_no_numbers_is_refused_for_rounded_weights_too():
    require_exact([ParityCheck("x", 5.0, 10.0, 0.5, 256)], Path("model"), only_finite=True)
    with pytest.raises(CheckpointError, match="does not compute what the model does"):
        require_exact([ParityCheck("x", float("nan"), 10.0, 1.0, 256)], Path("model"), only_finite=True)


@pytest.mark.parametrize(
    "options", [{"to": "hf", "dtype": "f16"}, {"to": "gguf", "quantize": "q8_0"}, {"to": "onnx", "dtype": "f16"}]
)
def test_weights_that_would_become_infinite_are_not_exported(our_model, tokenizer, tmp_path, options):
    for package in ("gguf", "onnx", "onnxscript"):
        pytest.importorskip(package)
    model = our_model()
    with torch.no_grad():
        model.blocks[0].attention.output.weight[0, 0] = 7e4
    write_huggingface(model, tokenizer, tmp_path / "model")
    with pytest.raises(UsageError, match=r"attention\.output\.weight has weights of up to 7e\+04.*choose --dtype f32"):
        export(ExportRequest(str(tmp_path / "model"), out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="choose --dtype fp32"):
        import_model(str(tmp_path / "model"), tmp_path / "out", dtype="fp16")


def test_a_writer_that_swaps_two_matrices_is_caught(run, tmp_path, monkeypatch):
    def swapped(model, tokenizer, directory, **options):
        again = load_model(run).model
        first, second = again.blocks[0].attention.output.weight, again.blocks[1].attention.output.weight
        first.data, second.data = second.data, first.data
        return write_huggingface(again, tokenizer, directory, **options)

    monkeypatch.setattr(exporting, "write_huggingface", swapped)
    with pytest.raises(CheckpointError, match="does not compute what the model does"):
        export(ExportRequest(str(run), "hf", tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "hf", "quantize": "q8_0"}, "--to hf holds no quantized weights; choose --to gguf or ollama"),
        ({"to": "gguf", "quantize": "q8_0", "dtype": "f16"}, "give one of them"),
        ({"to": "onnx", "dtype": "bf16"}, "--to onnx cannot be written in bf16; choose from f32, f16"),
        ({"to": "gguf", "quantize": "q4_k_m"}, "does not write it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_what_a_format_cannot_hold_is_refused_before_the_model_is_read(tmp_path, options, words):
    pytest.importorskip("gguf")
    with pytest.raises(UsageError, match=words):
        export(ExportRequest(str(tmp_path / "absent"), out=tmp_path / "out", **options))


@pytest.mark.parametrize(("to", "extra"), [("gguf", "gguf"), ("onnx", "onnx")])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, to, extra):
    monkeypatch.setattr(exporting, "is_installed", lambda package: False)
    with pytest.raises(UsageError, match=rf"which is not installed; pip install 'gptcli\[{extra}\]'"):
        export(ExportRequest(str(tmp_path / "absent"), to, tmp_path / "out"))


def test_a_file_that_is_there_is_replaced_only_with_force(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(), tokenizer, tmp_path / "model")
    out = tmp_path / "model.gguf"
    out.write_text("somebody's")
    with pytest.raises(UsageError, match="add --force"):
        export(ExportRequest(str(tmp_path / "model"), "gguf", out))
    assert out.read_text() == "somebody's"
    export(ExportRequest(str(tmp_path / "model"), "gguf", out, force=True))
    assert out.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx", "nanogpt"])
def test_a_pipe_or_a_device_is_replaced_by_no_export_not_even_with_force(tmp_path, to):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UsageError, match="is a device or a pipe, which no export replaces"):
            export(ExportRequest(str(tmp_path / "absent"), to, tmp_path / name, force=True))
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)


def test_a_directory_that_holds_something_is_left_alone(run, tmp_path):
    before = sorted(run.iterdir())
    with pytest.raises(UsageError, match=r"is not empty \(it holds .*\); choose another --out"):
        export(ExportRequest(str(run), "hf", run))
    with pytest.raises(UsageError, match="is a directory, and gguf is a file"):
        export(ExportRequest(str(run), "gguf", tmp_path))
    assert sorted(run.iterdir()) == before
