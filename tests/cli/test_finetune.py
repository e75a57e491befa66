"""`gptcli finetune` as a user types it: a run on conversations from a base, and mistakes of one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from command import gptcli
from finetuning import QUICK, write_base, write_conversations
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import read_toml
from gptcli.interop.load import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, conversations, and a run that was fine-tuned on them; no test changes it."""
    folder = tmp_path_factory.mktemp("finetune")
    write_base(folder / "base", tie_embeddings=False)
    write_conversations(folder / "chats.jsonl")
    done = gptcli("finetune", "base", "chats.jsonl", *QUICK, "--json", "--cache-dir=cache", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "summary.json").write_text(done.stdout)
    (folder / "screen.txt").write_text(done.stderr)
    return folder


def test_a_run_is_named_after_its_examples_and_has_template_and_special_tokens(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["run"], summary["steps"]) == ("runs/chats", 4)
    screen = (folder / "screen.txt").read_text()
    assert "new tokens  <|im_start|>, <|im_end|>: each starts at the mean of the embeddings\n" in screen
    assert re.search(r"gptcli generate runs/chats --chat 'Who is \d+\?'", screen)
    assert f" {summary['tokens']:,} tokens in the loss in " in screen
    base, tuned = load_model(folder / "base"), load_model(folder / "runs" / "chats")
    new = range(base.tokenizer.vocab_size, base.tokenizer.vocab_size + 2)
    assert [tuned.tokenizer.token_text(id) for id in new] == ["<|im_start|>", "<|im_end|>"]
    assert tuned.tokenizer.chat_template and "<|im_start|>" in tuned.tokenizer.chat_template
    assert tuned.model.config.vocab_size == tuned.tokenizer.vocab_size
    assert read_toml(folder / "runs" / "chats" / "run.toml").values["data"]["kind"] == "examples"


def test_a_run_that_lost_its_last_checkpoint_ends_with_the_same_weights_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    run = RunDirectory(tmp_path / "copy" / "runs" / "chats")
    shutil.rmtree(run.checkpoint_path(4))
    shutil.rmtree(tmp_path / "copy" / "base")  # the run has a copy of it
    done = gptcli("finetune", "runs/chats", "--resume", "--cache-dir=cache", cwd=tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert "resumed at step 2 of 4" in done.stderr
    expected = load_file(folder / "runs" / "chats" / "checkpoints" / "step-00000004" / "model.safetensors")
    resumed = load_file(run.checkpoint_path(4) / "model.safetensors")
    assert all(resumed[name].equal(expected[name]) for name in expected)


def test_a_dry_run_shows_the_choices_of_the_rule_and_writes_nothing(folder: Path) -> None:
    arguments = ("finetune", "base", "chats.jsonl", "--dry-run", "--json", "--out=dry", "--cache-dir=cache")
    done = gptcli(*arguments, "--set=device=cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] > 10
    assert "patience=3" in done.stderr and not (folder / "dry").exists()


def test_the_method_decides_the_settings(folder: Path) -> None:
    arguments = ("finetune", "base", "chats.jsonl", "--method=lora", "--dry-run", "--cache-dir=cache", "--out=dry")
    done = gptcli(*arguments, "--set=adapter.rank=2", "--set=device=cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"adapter +lora, trains .*: rank 2,", done.stderr) and "optim: name=adamw" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no base model to fine-tune; name it: gptcli finetune BASE chats.jsonl"),
        (["base"], 2, "no examples to fine-tune base on; name them: gptcli finetune base chats.jsonl"),
        (
            ["chats.jsonl"],
            2,
            "chats.jsonl is a file, not a base model; name the model first: gptcli finetune BASE chats.jsonl",
        ),
        (["chats.jsonl", "base"], 2, "name the model first: gptcli finetune base chats.jsonl"),
        (["nowhere", "chats.jsonl"], 4, "nowhere"),
        (["base", "nowhere.jsonl"], 3, "nowhere.jsonl"),
        (["base", "chats.jsonl", "--method", "magic"], 2, "'magic' is not one of"),
        (["base", "chats.jsonl", "--method", "full", "--set", "data.kind=text"], 2, "contradicts --method full"),
        (["--resume"], 4, "none is no run directory: nothing to resume"),
        (["base", "chats.jsonl", "--rdzv", "host:1"], 2, "--nnodes and --rdzv need several processes"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, arguments: list[str], code: int, words: str) -> None:
    done = gptcli("finetune", *arguments, "--cache-dir=cache", "--out=none", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert words in done.stderr
    assert not (folder / "none").exists()


def test_a_base_without_a_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "base", tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    done = gptcli("finetune", tmp_path / "bare", folder / "chats.jsonl", "--out=none", cwd=tmp_path)
    assert done.returncode in (3, 4) and done.stderr.count("\n") == 1 and "tokenizer" in done.stderr, done.stderr


def test_a_padded_base_gives_its_spare_rows_to_new_tokens(folder: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "padded", spare=7)
    arguments = ("finetune", base, folder / "chats.jsonl", *QUICK, "--set=train.max_steps=1", "--out=run")
    done = gptcli(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "; 2 in rows that no token had" in done.stderr
    before, after = load_model(base), load_model(tmp_path / "run")
    assert after.model.config.vocab_size == before.model.config.vocab_size
    assert after.tokenizer.vocab_size == before.tokenizer.vocab_size + 2


def test_the_run_is_scored_on_what_it_learnt_and_answers_by_its_template(folder: Path) -> None:
    """The loss on the kept examples, each read alone, is that of the training on whole rows of them."""
    run = folder / "runs" / "chats"
    scored = json.loads(gptcli("eval", "runs/chats", "--json", "--device=cpu", cwd=folder).stdout)
    learnt, summary = (
        json.loads((run / "data.json").read_text())["examples"]["val"],
        json.loads((folder / "summary.json").read_text()),
    )
    assert (scored["loss_on"], scored["examples"]) == ("assistant", learnt["examples"])
    assert scored["tokens"] == learnt["tokens_in_loss"] < scored["all_tokens"] == learnt["tokens"]
    assert scored["loss"] == pytest.approx(summary["val_loss"], rel=1e-3)  # on some CPUs training computes in bf16
    assert scored["answers"]["generated"] == scored["answers"]["found"] >= learnt["examples"]

    given = json.loads(gptcli("eval", "runs/chats", "chats.jsonl", "--json", "--device=cpu", cwd=folder).stdout)
    assert given["examples"] > scored["examples"] and set(given["roles"]) >= {"user", "assistant"}

    stop_ids = json.loads((run / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = load_model(run).tokenizer
    assert stop_ids == [tokenizer.eos_id, tokenizer.backend.token_to_id("<|im_end|>")]
    arguments = ("generate", "runs/chats", "--chat", "Who is 1?", "--json", "--max-new-tokens=8", "--device=cpu")
    answered = json.loads(gptcli(*arguments, cwd=folder).stdout)
    assert answered["messages"] == [{"role": "user", "content": "Who is 1?"}]
    assert len(answered["completions"][0]["tokens"]) <= 8
    for model, is_noted in (("runs/chats", True), ("base", False)):
        continued = gptcli("generate", model, "Who", "--max-new-tokens=2", "--device=cpu", cwd=folder)
        assert continued.returncode == 0
        assert ("a text is continued; --chat answers it as a message" in continued.stderr) == is_noted


def test_questions_that_are_learnt_too_are_not_taken_for_answers(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "runs" / "chats", run)
    (run / "gptcli-manifest.json").unlink()
    settings = (run / "run.toml").read_text()
    assert 'loss_on = "assistant"' in settings
    (run / "run.toml").write_text(settings.replace('loss_on = "assistant"', 'loss_on = "all"'))
    scored = json.loads(gptcli("eval", run, "--json", "--device=cpu").stdout)
    assert (scored["loss_on"], scored["answers"]) == ("all", None)
