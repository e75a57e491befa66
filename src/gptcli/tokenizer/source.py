"""References to tokenizers as people write them: a path, `file:PATH`, or `hf:NAME` on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from gptcli.errors import TokenizerError
from gptcli.storage import expanded
from gptcli.tokenizer.folders import TOKENIZER_FILES
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer


def open_tokenizer(reference: str) -> Tokenizer:
    """Open the tokenizer of a run, a model directory, a folder, a tokenizer.json, `file:PATH` or `hf:NAME`."""
    if reference.startswith("hf:"):
        return load_hub_tokenizer(reference.removeprefix("hf:"))
    return load_tokenizer(expanded(reference.removeprefix("file:")))


def load_hub_tokenizer(repo: str, revision: str | None = None) -> Tokenizer:
    """Return the tokenizer of a model on the Hugging Face Hub, through that library's own cache.

    Raises:
        TokenizerError: there is no such model, no tokenizer in it, no access to it, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=list(TOKENIZER_FILES))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TokenizerError(
            f"cannot get the tokenizer hf:{repo} from the Hub: {reason}",
            "check the name, your access to it, and the network",
        ) from error
    return load_tokenizer(Path(folder))
