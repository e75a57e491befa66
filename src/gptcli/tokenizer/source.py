"""Tokenizers as people name them: a path, `file:PATH`, or `hf:NAME` on the Hugging Face Hub. Knows no kinds."""

from __future__ import annotations

from pathlib import Path

from gptcli.errors import TokenizerError
from gptcli.tokenizer.files import MERGES_FILE, SETTINGS_FILE, TOKENIZER_FILE, VOCAB_FILE
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer


def open_tokenizer(reference: str) -> Tokenizer:
    """Open the tokenizer of a run, a model directory, a folder, a tokenizer.json, `file:PATH` or `hf:NAME`."""
    if reference.startswith("hf:"):
        return load_hub_tokenizer(reference.removeprefix("hf:"))
    return load_tokenizer(Path(reference.removeprefix("file:")).expanduser())


def load_hub_tokenizer(repo: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model on the Hugging Face Hub, through that library's own cache.

    Raises:
        TokenizerError: no such model, no tokenizer in it, no access, or no network.
    """
    path = download(repo, TOKENIZER_FILE, revision)
    if path is None:
        path = download(repo, VOCAB_FILE, revision)
        if path is None or download(repo, MERGES_FILE, revision) is None:
            raise TokenizerError(
                f"{repo} on the Hub has no {TOKENIZER_FILE}, nor {VOCAB_FILE} with {MERGES_FILE}",
                "choose a model that has a fast tokenizer",
            )
    download(repo, SETTINGS_FILE, revision)
    return load_tokenizer(path.parent)


def download(repo: str, name: str, revision: str | None) -> Path | None:
    """One file of a model on the Hub in the local cache; None when the model has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TokenizerError(
            f"cannot get {name} of {repo} from the Hub: {reason}", "check the name, your access to it, and the network"
        ) from error
