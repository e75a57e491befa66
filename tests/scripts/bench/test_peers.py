"""Which peers take part, and what is said of those that do not."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import pytest

from bench import peers
from bench.peers import PEERS, choose_peers, commit_of, versions_of
from gptcli.errors import UsageError
from gptcli.report.bench.jobs import JOBS
from gptcli.report.bench.machine import conditions


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_has_a_function_for_every_bench_that_it_takes_part_in(peer: peers.Peer) -> None:
    module = importlib.import_module(peer.program().module)
    jobs = {"train" if bench == "finetune" else bench for bench in peer.benches}  # an adapter has a job of training
    assert {bench for bench in JOBS if hasattr(module, bench)} == jobs & set(JOBS)


def test_without_names_all_that_are_installed_take_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda package: object() if package == "transformers" else None)
    assert [chosen.name for chosen in choose_peers((), "train")] == ["transformers"]
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("without litgpt: pip install") for line in said)
    assert any(line.startswith("without nanogpt: --peer nanogpt=PATH") for line in said)


def test_a_peer_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match="peer transformers is not installed; pip install"):
        choose_peers(["transformers"], "train")


def test_an_unknown_peer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'tensorflow' is unknown; choose from transformers, peft, litgpt"):
        choose_peers(["tensorflow"], "train")


def test_a_checkout_must_hold_the_peers_source(tmp_path: Path, checkout: Path) -> None:
    with pytest.raises(UsageError, match="nanogpt needs a path; --peer nanogpt=PATH"):
        choose_peers(["nanogpt"], "train")
    with pytest.raises(UsageError, match=r"is no checkout of nanogpt: it has no model\.py"):
        choose_peers([f"nanogpt={tmp_path}"], "train")
    assert choose_peers([f"nanogpt={checkout}"], "train")[0].checkout == str(checkout)


def test_an_installed_peer_takes_no_path() -> None:
    with pytest.raises(UsageError, match="leave out =/tmp"):
        choose_peers(["transformers=/tmp"], "train")


def test_a_peer_without_a_part_in_a_bench_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_peers(["transformers"], "limits") == []
    assert capsys.readouterr().err == "without transformers: it has no part in limits\n"


def test_versions_are_those_of_the_peers_that_take_part(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    (tmp_path / "model.py").touch()
    found = versions_of(choose_peers(["tokenizers"], "data") + choose_peers([f"nanogpt={tmp_path}"], "train"))
    assert list(found) == ["tokenizers", "nanogpt"]
    assert head.startswith(found["nanogpt"]) and len(found["nanogpt"]) == 10
    assert conditions("cpu", found)["versions"].items() >= found.items()


def test_a_copy_without_gits_records_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(str(tmp_path / "nowhere")) == "unknown"
