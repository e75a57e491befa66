"""Training on examples: only the mask is learnt, and whatever holds for a run holds for one on examples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from command import gptcli
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.data.batches import Batches
from gptcli.data.shards import TokenShards
from gptcli.data.token_mix import TokenMix
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.load import load_model
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.request import TrainRequest
from gptcli.train.run import train
from killed_training import train_until_killed

SETTINGS = (
    "data.kind=examples", "train.max_steps=6", "train.tokens_per_step=256", "train.batch_size=2", "train.patience=0",
    "train.eval_every_steps=3", "train.checkpoint_every_steps=3", "train.log_every_steps=1", "model.dropout=0.1",
    "train.precision=fp32", "device=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights and learned positions, and a tokenizer of bytes."""
    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    shape = {"context_length": 64, "n_layer": 1, "n_head": 2, "n_embd": 32, "norm": "layernorm", "qk_norm": False}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, position="learned", mlp="gelu_tanh", bias=True, **shape)
    folder = tmp_path_factory.mktemp("base")
    write_huggingface(build_model(config, seed=7), tokenizer, folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A file of short conversations."""
    path = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"{n}+1?", "completion": f"It is {n + 1}."} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request(chats: Path, out: Path, base: Path, **options: Any) -> TrainRequest:
    return TrainRequest((str(chats),), (), SETTINGS, out=out, init_from=str(base), **options)


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    names = ("step", "tokens", "train_loss", "val_loss", "tokens_hash")
    return [{name: line.get(name) for name in names} for line in lines]


@pytest.mark.slow
def test_a_run_on_examples_is_resumed_bit_for_bit_and_keeps_their_mask(chats, base, tmp_path) -> None:
    summary = train(request(chats, tmp_path / "unbroken", base))
    train_until_killed(request(chats, tmp_path / "run", base), 4, waits_for_saver=True)
    train(TrainRequest(out=tmp_path / "run", resume=True))
    one, two = (
        load_file(RunDirectory(tmp_path / name).checkpoint_path(6) / "model.safetensors")
        for name in ("unbroken", "run")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unbroken")
    assert summary["val_bits_per_byte"] is None and "some tokens" in summary["val_bits_per_byte_withheld"]
    assert summary["xz_bits_per_byte"] is None and summary["val_part"] == 1
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert report["examples"]["train"]["examples"] + report["examples"]["val"]["examples"] == 60
    kept = TokenShards.open(tmp_path / "run" / "val")
    assert kept.is_masked and kept.targets == report["examples"]["val"]["tokens_in_loss"]
    shown = gptcli("data", "inspect", tmp_path / "run" / "val", "-n", "1").stdout
    assert "assistant\\n⟦It is " in shown and ".<|im_end|>⟧" in shown


def test_the_first_loss_is_that_of_the_base_on_the_answers_alone(chats, base, tmp_path) -> None:
    """Each example is read by itself, in fp64; the mean is over all answers of the step."""
    still = (*SETTINGS, "model.dropout=0", "train.max_steps=1")
    train(TrainRequest((str(chats),), (), still, out=tmp_path / "run", init_from=str(base)))
    (entry,) = (path for path in (Path(path) for path in cached_splits()) if (path / "train").is_dir())
    batch = Batches(TokenMix.of_one(TokenShards.open(entry / "train")), 64, 1337, "example").sequences(range(4))
    model = load_model(tmp_path / "run" / "init").model.double()
    nats, count = 0.0, 0
    for ids, targets, segments in zip(*batch[:3], strict=True):
        for segment in segments.unique():
            own = segments == segment
            logits = model(ids[own][None])[0]
            losses = torch.nn.functional.cross_entropy(
                logits, targets[own], reduction="none", ignore_index=IGNORE_INDEX
            )
            nats += losses.sum().item()
            count += int((targets[own] != IGNORE_INDEX).sum())
    first = metrics(tmp_path / "run")[0]
    assert first["tokens"] == count
    assert first["train_loss"] == pytest.approx(nats / count, rel=1e-5)


def cached_splits() -> list[str]:
    """Return the directories of prepared tokens in this test's cache."""
    from gptcli.storage import default_cache_dir

    return [str(path) for path in (default_cache_dir() / "tokens").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_two_ranks_follow_the_curve_of_one_process(chats, base, tmp_path) -> None:
    exact = (*SETTINGS, "model.dropout=0")
    train(TrainRequest((str(chats),), (), exact, out=tmp_path / "one", init_from=str(base)))
    settings = [word for setting in exact for word in ("--set", setting)]
    out = ("--init-from", base, "--out", tmp_path / "two", "--nproc", "2")
    assert gptcli("train", chats, *settings, *out).returncode == 0
    for one, two in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one["tokens_hash"] == two["tokens_hash"] and one["tokens"] == two["tokens"]
        assert math.isclose(one["train_loss"], two["train_loss"], rel_tol=1e-5)


def test_examples_are_shown_as_the_base_learns_them(chats, base, tmp_path) -> None:
    shown = gptcli("data", "inspect", chats, "--model", base, "-n", "2")
    assert shown.returncode == 0, shown.stderr
    assert "60 examples, chosen by the hash of their prompts" in shown.stdout
    assert "tokens are in the loss (of the assistant's messages)" in shown.stdout
    assert shown.stdout.count("<|im_start|>assistant\n⟦It is ") == 2 == shown.stdout.count(".<|im_end|>⟧")
    (report,) = json.loads(gptcli("data", "inspect", chats, "--model", base, "-n", "1", "--json").stdout)["corpora"]
    assert report["train"]["examples"] + report["val"]["examples"] == 60
    (example,) = report["shown"]
    learnt = [part for part in example["parts"] if part["in_loss"]]
    assert [part["is_special"] for part in learnt] == [False, True] and learnt[1]["text"] == "<|im_end|>"
    assert example["tokens_in_loss"] == len(learnt[0]["text"]) + 1
    text = tmp_path / "text.txt"
    text.write_text("hello")
    for arguments, words in (((text,), "plain text"), ((chats, "--set", "data.kind=text"), "data.kind is text")):
        refused = gptcli("data", "inspect", *arguments, "--model", base)
        assert refused.returncode and words in refused.stderr


@pytest.mark.slow
def test_a_resume_on_other_examples_names_the_command_that_fine_tunes_on_them(chats, base, tmp_path) -> None:
    train(request(chats, tmp_path / "run", base))
    chats.write_text(chats.read_text().replace("It is", "It was"))
    refused = gptcli("train", chats, "--resume", "--out", tmp_path / "run", "--set", "train.max_steps=9")
    command = f"gptcli finetune {tmp_path / 'run'} {chats}"
    assert refused.returncode and refused.stderr.rstrip().endswith(command)


@pytest.mark.parametrize("more", [(), ("--time", "1m")], ids=["steps", "time"])
def test_examples_without_a_base_are_refused_in_one_line(chats, more) -> None:
    refused = gptcli("train", chats, "--set", "data.kind=examples", *more)
    assert refused.returncode == 2 and "no model that learns the examples" in refused.stderr
    assert refused.stderr.count("\n") == 1
