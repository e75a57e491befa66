"""Tokenizers by the references that people write."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from gptcli.errors import TokenizerError
from gptcli.tokenizer.config import HubTokenizerConfig
from gptcli.tokenizer.folders import TOKENIZER_FILES
from gptcli.tokenizer.source import open_tokenizer
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_path_may_be_a_folder_a_file_or_have_the_shorthand(
    bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpe.save(tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    references = (f"{tmp_path}/run", f"{tmp_path}/run/tokenizer.json", f"file:{tmp_path}/run", "file:~/run", "~/run")
    for reference in references:
        assert open_tokenizer(reference).fingerprint == bpe.fingerprint


def test_the_hub_s_own_library_finds_a_model_in_its_cache(bpe: Tokenizer, tmp_path: Path) -> None:
    """In another process, since that library reads its settings when it is imported; no network is touched."""
    repository = tmp_path / "hub" / "models--acme--words"
    bpe.save(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    code = (
        "from gptcli.errors import TokenizerError\n"
        "from gptcli.tokenizer.source import open_tokenizer\n"
        "print(open_tokenizer('hf:acme/words').fingerprint)\n"
        "try: open_tokenizer('hf:acme/unknown')\n"
        "except TokenizerError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    result = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True)
    fingerprint, error = result.stdout.splitlines()
    assert fingerprint == bpe.fingerprint
    assert "hf:acme/unknown" in error and "network" in error


def test_only_tokenizer_files_of_the_asked_revision_are_downloaded(
    bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bpe.save(tmp_path)
    asked = []

    def snapshot_download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, sorted(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    config = HubTokenizerConfig(repo="acme/words", revision="v2")
    assert build_tokenizer(config, lambda: iter(())).fingerprint == bpe.fingerprint
    assert asked == [("acme/words", "v2", sorted(TOKENIZER_FILES))]
    assert all(name.endswith((".json", ".txt", ".jinja")) for name in TOKENIZER_FILES)


def test_a_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo: str, **options: object) -> str:
        raise LocalEntryNotFoundError("no connection\nand many more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(TokenizerError, match="hf:acme/words from the Hub: no connection; check the name") as caught:
        open_tokenizer("hf:acme/words")
    assert "many more" not in str(caught.value)


@pytest.mark.parametrize("reference", ["hf:", "hf:a/b/c", "hf:../secret"])
def test_an_invalid_model_name_is_refused_without_the_network(reference: str) -> None:
    with pytest.raises(TokenizerError, match="from the Hub"):
        open_tokenizer(reference)
