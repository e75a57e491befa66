"""Training that starts from a model: its shape, tokenizer and weights, and a run that then needs it no more."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import RawConfig, merge, read_toml, validate
from gptcli.config.load import with_origin
from gptcli.errors import CheckpointError, ConfigError, GptcliError, Stopped, UsageError
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.load import load_model
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.config import RunConfig
from gptcli.train.initial_checkpoint import require_same_initial, tokenizer_settings
from gptcli.train.planning.zero_config import CorpusFacts, zero_config
from gptcli.train.replay import replay
from gptcli.train.run import TrainRequest, train
from killed_training import train_until_killed

SETTINGS = (
    "train.max_steps=6", "train.tokens_per_step=128", "train.batch_size=4", "train.eval_every_steps=3",
    "train.eval_tokens=256", "train.checkpoint_every_steps=3", "train.log_every_steps=1",
    "train.sample_every_steps=0", "device=cpu",
)  # fmt: skip
SHAPES = {
    "qwen3": {"tie_embeddings": False},
    "gpt2 without biases": {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "qk_norm": False},
    "llama, yarn": {"qk_norm": False, "rope_scaling": {"name": "yarn", "factor": 2.0, "original_context_length": 8}},
}


@pytest.fixture
def base(tmp_path: Path):
    """Write a model directory with random weights; returns it and the model."""

    def write(name: str = "base", **slots: object) -> tuple[Path, GPT]:
        tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
        sizes = {"vocab_size": tokenizer.vocab_size + 3, "context_length": 16, "n_layer": 2, "n_head": 2, "n_embd": 32}
        model = build_model(ModelConfig(**(sizes | slots)), seed=7)
        write_huggingface(model, tokenizer, tmp_path / name)
        return tmp_path / name, model

    return write


def request(corpus: Path, out: Path, init_from: Path | None, *more: str, **options: bool) -> TrainRequest:
    reference = None if init_from is None else str(init_from)
    return TrainRequest((str(corpus),), (), (*SETTINGS, *more), out=out, init_from=reference, **options)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(RunDirectory(run).checkpoint_path(step) / "model.safetensors")


@pytest.mark.parametrize("slots", SHAPES.values(), ids=SHAPES)
def test_training_begins_with_the_weights_of_the_model(corpus, base, tmp_path, slots) -> None:
    directory, model = base(**slots)
    still = ("optim.name=sgd", "optim.lr=1e-30", "optim.weight_decay=0.0", "schedule.name=constant")
    train(request(corpus, tmp_path / "run", directory, *still))
    for name, tensor in weights(tmp_path / "run", 6).items():
        expected = model.state_dict().get(name, torch.zeros_like(tensor))  # biases that the class has and it had not
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-12)
    config = load_model(tmp_path / "run").model.config
    assert (config.vocab_size, config.rope_scaling) == (model.config.vocab_size, model.config.rope_scaling)
    assert load_model(tmp_path / "run").tokenizer.fingerprint == load_model(directory).tokenizer.fingerprint


def test_a_run_of_ours_is_gone_on_with_on_another_text(corpus, base, tmp_path) -> None:
    directory, _ = base()
    train(request(corpus, tmp_path / "first", directory))
    before = {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()}
    summary = train(request(corpus, tmp_path / "second", tmp_path / "first", "model.dropout=0.1", "model.n_kv_head=2"))
    assert summary["steps"] == 6
    assert {path: path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()} == before
    assert read_toml(tmp_path / "second/run.toml").values["model"]["dropout"] == 0.1
    assert read_toml(tmp_path / "second/run.toml").values["train"]["init_from"] == str(tmp_path / "first")


@pytest.mark.parametrize("stop_after", [0, 2, 4])
def test_resuming_without_the_source_gives_the_same_bits(corpus, base, tmp_path, stop_after) -> None:
    """Stopped before its first checkpoint, before its second, or after it, and the source gone meanwhile."""
    directory, _ = base(tie_embeddings=False)
    more = ("model.dropout=0.1",)
    train(request(corpus, tmp_path / "unbroken", directory, *more))
    train_until_killed(request(corpus, tmp_path / "run", directory, *more), stop_after)
    shutil.rmtree(directory)
    before = read_toml(tmp_path / "run/run.toml").values
    train(TrainRequest(out=tmp_path / "run", resume=True))
    assert read_toml(tmp_path / "run/run.toml").values == before
    unbroken, resumed = weights(tmp_path / "unbroken", 6), weights(tmp_path / "run", 6)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert replay(tmp_path / "run", 2, tmp_path / "cache")["checkpoint"] == 0


def test_run_toml_repeats_the_run(corpus, base, tmp_path) -> None:
    directory, _ = base()
    train(request(corpus, tmp_path / "run", directory))
    train(TrainRequest(config_files=(str(tmp_path / "run/run.toml"),), out=tmp_path / "again"))
    first, again = weights(tmp_path / "run", 6), weights(tmp_path / "again", 6)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.n_layer=3", "model.n_layer is set to 3, but the weights of"),
        ("model.mlp=geglu", "model.mlp is set to geglu"),
        ("model.context_length=32", "are for 16; leave it out"),
        ("data.tokenizer=char", "has a tokenizer of its own"),
        ("model.n_head=3", "model.n_head is set to 3"),
        ("model.rope_scaling={name='linear',factor=2}", "model.rope_scaling is set to"),
    ],
)
def test_what_would_change_the_shape_is_refused_in_one_line(corpus, base, tmp_path, setting, words) -> None:
    with pytest.raises(ConfigError) as caught:
        train(request(corpus, tmp_path / "run", base()[0], setting))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_or_another_one_is_refused_in_one_line(corpus, base, tmp_path) -> None:
    directory, _ = base()
    with pytest.raises(CheckpointError, match="does not exist"):
        train(request(corpus, tmp_path / "run", tmp_path / "absent"))
    train(request(corpus, tmp_path / "run", directory))
    with pytest.raises(UsageError, match=r"began from .*base, not from .*other"):
        train(request(corpus, tmp_path / "run", base("other")[0], resume=True))
    one, two = (RawConfig({"train": {"init_from": name}, "data": {"kind": "examples"}}) for name in "ab")
    with pytest.raises(UsageError, match="from b; continue it by gptcli finetune --resume --out run"):
        require_same_initial(two, one, RunDirectory(Path("run")))
    train(request(corpus, tmp_path / "drawn", None, "model.n_layer=1", "model.n_embd=32", "model.context_length=16"))
    with pytest.raises(UsageError, match="began from random weights"):
        train(request(corpus, tmp_path / "drawn", directory, resume=True))


def test_the_plan_says_what_it_starts_from(corpus, base, tmp_path, capsys) -> None:
    directory, _ = base()
    train(request(corpus, tmp_path / "run", directory, dry_run=True))
    assert f"the weights of Hugging Face directory {directory}; a new optimizer" in capsys.readouterr().err


def test_the_tokenizer_of_a_hub_model_is_recorded_with_its_revision() -> None:
    assert tokenizer_settings("hf:someone/tiny@v2") == {"name": "hf", "repo": "someone/tiny", "revision": "v2"}
    assert tokenizer_settings("hf:someone/tiny") == {"name": "hf", "repo": "someone/tiny"}
    assert tokenizer_settings("runs/base") == {"name": "file", "path": "runs/base"}


def test_the_zero_config_rule_is_gentler_and_leaves_the_shape_alone(base) -> None:
    drawn = validate(RunConfig, zero_config(CorpusFacts(1_000_000, "cpu"), merge()))
    model = {"n_embd": 128, "n_layer": 9, "context_length": 4096, "vocab_size": 700}
    user = with_origin({"train": {"init_from": "x"}, "model": model, "data": {"tokenizer": {"name": "byte"}}}, "test")
    started = validate(RunConfig, merge(zero_config(CorpusFacts(1_000_000, "cpu"), user), user))
    for rate in ("lr", "adamw_lr", "embedding_lr", "head_lr"):
        assert getattr(started.optim, rate) == pytest.approx(0.1 * getattr(drawn.optim, rate), rel=0.05)
    assert (started.model.n_layer, started.seq_len, started.data.tokenizer.name) == (9, 256, "byte")


@pytest.mark.slow
def test_training_by_a_deadline_keeps_the_shape_of_the_model(corpus, base, tmp_path) -> None:
    settings = ("device=cpu", "train.max_seconds=12.0")
    reference = str(base(n_layer=3)[0])
    try:
        train(TrainRequest((str(corpus),), (), settings, out=tmp_path / "run", init_from=reference))
    except (Stopped, GptcliError) as error:
        pytest.fail(str(error))
    assert load_model(tmp_path / "run").model.config.n_layer == 3
