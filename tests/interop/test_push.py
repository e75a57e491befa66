"""`push` to a hub on this machine, and back from it by `hf:NAME`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from gptcli.config import Config
from gptcli.errors import CheckpointError, StorageError, UsageError
from gptcli.interop.export import Exported, export_huggingface
from gptcli.interop.huggingface import read_huggingface, write_huggingface
from gptcli.interop.push import PushRequest, push
from gptcli.models.config import ModelConfig
from interop.stand_in_hub import TOKEN, StandInHub, stand_in_hub

FILES = [
    "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
]  # fmt: skip


# huggingface_hub uploads to Git LFS by a form of its HTTP client that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


class Resolved(Config):
    model: ModelConfig


@pytest.fixture
def hub(monkeypatch, tmp_path) -> StandInHub:
    """A hub that this process's client speaks to, with a token in the environment and without hf_xet's own protocol."""
    with stand_in_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def run(our_model, make_run) -> Path:
    """A run with an optimizer's state and two checkpoints, of which the second has the weights negated."""
    model, moments = our_model(), {"m": torch.ones(5)}
    config = Resolved(model=model.config)
    return make_run(model, config, {10: 1.5, 20: 2.0}, lambda t, step: t if step == 10 else -t, optimizer=moments).path


def files_of(hub: StandInHub, name: str = "someone/tiny", branch: str = "main") -> dict[str, bytes]:
    return hub.repos[f"models/{name}"]["branches"][branch]


def test_the_model_and_its_card_arrive_and_nothing_else(hub, run, our_model, tmp_path):
    pushed = push(PushRequest(str(run), "someone/tiny", license="mit"))
    files = files_of(hub)
    assert sorted(files) == sorted(pushed.files) == FILES
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    model, _ = read_huggingface(tmp_path)
    torch.testing.assert_close(model.embedding.weight, our_model().embedding.weight, atol=0, rtol=0)
    card = files["README.md"].decode()
    assert "license: mit" in card and "gptcli generate hf:someone/tiny" in card
    assert pushed.exported.checks[0].is_exact
    assert len(pushed.commit) == 40 and pushed.url == f"{hub.address}/someone/tiny"


def test_files_that_do_not_compute_what_the_model_does_are_not_sent(hub, run, monkeypatch):
    def wrong(*arguments: object) -> Exported:
        exported = export_huggingface(*arguments)
        return replace(exported, checks=tuple(replace(check, max_difference=1.0) for check in exported.checks))

    monkeypatch.setattr("gptcli.interop.push.export_huggingface", wrong)
    with pytest.raises(CheckpointError, match=r"the export of .* does not compute what the model does"):
        push(PushRequest(str(run), "someone/tiny"))
    assert not hub.repos


def test_the_weights_go_through_git_lfs_and_the_rest_in_the_commit(hub, run):
    push(PushRequest(str(run), "someone/tiny"))
    assert list(hub.large.values()) == [files_of(hub)["model.safetensors"]]
    assert sum(request.startswith("POST /api/models/someone/tiny/commit/") for request in hub.requests) == 1


def test_a_name_without_a_user_is_the_tokens_own(hub, run):
    assert push(PushRequest(str(run), "tiny")).name == "someone/tiny"
    assert "hf:someone/tiny" in files_of(hub)["README.md"].decode()


def test_private_is_asked_for_when_the_repository_is_made(hub, run):
    push(PushRequest(str(run), "someone/open"))
    push(PushRequest(str(run), "someone/closed", private=True))
    asked = {name: repo["created"].get("visibility") for name, repo in hub.repos.items()}
    assert asked == {"models/someone/open": None, "models/someone/closed": "private"}


def test_a_branch_is_made_and_main_left_as_it_was(hub, run, our_model, tmp_path):
    push(PushRequest(str(run), "someone/tiny"))
    before = dict(files_of(hub))
    pushed = push(PushRequest(str(run), "hf:someone/tiny", revision="last", checkpoint="last", dtype="bf16"))
    assert pushed.revision == "last" and "hf:someone/tiny@last" in pushed.text().splitlines()[-1]
    assert files_of(hub) == before
    changed = files_of(hub, branch="last")
    (tmp_path / "model.safetensors").write_bytes(changed["model.safetensors"])
    from safetensors.torch import load_file

    weight = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weight, -our_model().embedding.weight.bfloat16())


def test_a_second_push_replaces_the_first(hub, run):
    first = push(PushRequest(str(run), "someone/tiny"))
    second = push(PushRequest(str(run), "someone/tiny", checkpoint="last"))
    assert first.commit != second.commit
    assert sorted(files_of(hub)) == FILES


def refuse(request: PushRequest, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        push(request)
    assert "\n" not in str(caught.value)


def test_without_a_token_the_remedy_is_named(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refuse(PushRequest(str(run), "someone/tiny"), UsageError, "no token for the hub; set HF_TOKEN")
    assert not hub.requests


def test_a_token_that_is_wrong_or_may_only_read_is_told_apart(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refuse(PushRequest(str(run), "someone/tiny"), StorageError, "Invalid credentials.*; the token is not valid")
    hub.readers.add("hf_wrong")
    refuse(PushRequest(str(run), "someone/tiny"), StorageError, "the token may not write there")


def test_another_users_name_is_refused_by_the_hub(hub, run):
    refuse(PushRequest(str(run), "another/tiny"), StorageError, "hf:another/tiny: You don't have the rights")
    assert not hub.repos


def test_without_a_connection_it_is_one_line(hub, run, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        refuse(PushRequest(str(run), "someone/tiny"), StorageError, "cannot be pushed: .*check the connection")


@pytest.mark.parametrize("name", ["a/b/c", "not a name", "", "hf:"])
def test_what_is_no_name_is_refused_before_anything_is_sent(hub, run, name):
    refuse(PushRequest(str(run), name), UsageError, "is no name for a repository")
    assert not hub.requests


@pytest.fixture
def elsewhere(tmp_path):
    """`gptcli` in a process of its own whose hub is the stand-in, with an empty cache."""
    with stand_in_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
        }

        def gptcli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "gptcli", *map(str, arguments)]
            return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

        yield hub, gptcli


@pytest.mark.slow
def test_models_and_corpora_of_the_hub_are_taken_by_their_names(elsewhere, our_model, tokenizer, tmp_path):
    hub, gptcli = elsewhere
    write_huggingface(our_model(), tokenizer, tmp_path / "model")
    pushed = gptcli("push", tmp_path / "model", "someone/tiny", "--private", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout)["name"] == "someone/tiny"
    options = ("Once", "--temperature", "0", "--max-new-tokens", "20", "--json", "--device", "cpu")
    here, there = gptcli("generate", tmp_path / "model", *options), gptcli("generate", "hf:someone/tiny", *options)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout)["completions"] == json.loads(here.stdout)["completions"]
    rows = "".join(json.dumps({"text": f"Story {number}. The end."}) + "\n" for number in range(30))
    (tmp_path / "stories.jsonl").write_text(rows)
    hub.add_files("datasets/someone/stories", {"train.jsonl": rows.encode(), "README.md": b"# Stories"})
    here = gptcli("eval", tmp_path / "model", tmp_path / "stories.jsonl", "--json", "--device", "cpu")
    there = gptcli("eval", "hf:someone/tiny@main", "hf:someone/stories", "--json", "--device", "cpu")
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout)["bits_per_byte"] == json.loads(here.stdout)["bits_per_byte"]
