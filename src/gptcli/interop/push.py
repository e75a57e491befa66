"""`gptcli push`: the upload of a model and its card, without checkpoints and optimizer state, to the Hugging Face hub.

The token is that of the hub's other tools (HF_TOKEN, or `hf auth login`), and HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from huggingface_hub.utils.tqdm import disable_progress_bars

from gptcli.console import shell_word
from gptcli.data.prompts import example_prompt
from gptcli.errors import StorageError, UsageError, first_line
from gptcli.interop.base_reference import HUB_PREFIX
from gptcli.interop.export import Exported, export_huggingface
from gptcli.interop.load import load_model
from gptcli.interop.merging import merge_checks
from gptcli.interop.parity import require_exact

REMEDIES = {
    401: "the token is not valid: make one that may write, and set HF_TOKEN",
    403: "the token may not write there: check the name and the token's rights",
    404: "check the name and the token's rights",
    429: "the hub limits the rate of requests: wait, then push again",
}
"""The remedy by HTTP status."""


@dataclass(frozen=True)
class PushRequest:
    """The arguments of `gptcli push`."""

    model: str
    name: str
    private: bool = False
    revision: str | None = None
    checkpoint: str = "best"
    dtype: str = "f32"
    license: str | None = None


@dataclass(frozen=True)
class Pushed:
    """The uploaded model and the checks of its files."""

    name: str
    revision: str
    commit: str
    url: str
    files: tuple[str, ...]
    exported: Exported
    prompt: str
    """A prompt that the model's tokenizer represents."""
    is_chat: bool = False
    """Whether the prompt is a message to be answered."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {
            "name": self.name,
            "revision": self.revision,
            "commit": self.commit,
            "url": self.url,
            "files": list(self.files),
            "notes": list(self.exported.notes),
            "proofs": [asdict(check) for check in self.exported.checks],
        }

    def text(self) -> str:
        """Return where the model is, the notes and checks of its files, and a command that uses it."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        lines = [
            f"{self.url}: {len(self.files)} files, commit {self.commit[:10]}",
            *self.exported.notes,
            *map(str, self.exported.checks),
            f"gptcli generate {HUB_PREFIX}{self.name}{at} {'--chat ' * self.is_chat}{shell_word(self.prompt)}",
        ]
        return "\n".join(lines)


def push(request: PushRequest) -> Pushed:
    """Export the model as a Hugging Face directory, check it, and commit it to the repository, a new one if need be.

    Raises:
        UsageError: there is no token, or no repository can have this name.
        CheckpointError: there is no such model, or the written files do not compute the same.
        StorageError: the hub refuses the files or cannot be reached; the message has its reason.
    """
    name = request.name.removeprefix(HUB_PREFIX)
    require_name(name)
    if get_token() is None:
        raise UsageError("there is no token for the hub", "set HF_TOKEN, or log in with `hf auth login`")
    api = HfApi()
    if "/" not in name:
        with hub_errors(name):
            name = f"{api.whoami()['name']}/{name}"
    loaded = load_model(request.model, checkpoint=request.checkpoint)
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        place = f"the export of {request.model}"
        merging = merge_checks(loaded, request.model, request.checkpoint)
        require_exact(merging, place)
        exported = export_huggingface(loaded, Path(folder), request.dtype, request.license, name)
        require_exact(exported.checks, place, only_finite=request.dtype != "f32")
        exported = replace(exported, checks=(*merging, *exported.checks))
        files = tuple(sorted(path.name for path in Path(folder).iterdir()))
        with hub_errors(name):
            disable_progress_bars()
            repo = api.create_repo(name, private=request.private or None, exist_ok=True)
            if request.revision:
                api.create_branch(repo.repo_id, branch=request.revision, exist_ok=True)
            info = api.upload_folder(
                repo_id=repo.repo_id,
                folder_path=folder,
                revision=request.revision,
                allow_patterns=list(files),
                commit_message="Model and card, by gptcli",
            )
    prompt, is_chat = example_prompt(loaded.tokenizer), loaded.tokenizer.chat_template is not None
    return Pushed(
        repo.repo_id, request.revision or "main", info.oid, str(repo), files, exported, prompt, is_chat=is_chat
    )


def require_name(name: str) -> None:
    """Refuse a name that no repository can have, before the model is read."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"{name!r} is no name for a repository of the hub: {first_line(error)}") from error


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn errors of the hub and of the connection into a StorageError."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        said = getattr(error, "server_message", None) or first_line(error)
        raise StorageError(f"the hub does not take {HUB_PREFIX}{name}: {said}", REMEDIES.get(status, "")) from error
    except Exception as error:  # the library raises the errors of the HTTP client that its version uses
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        reason = first_line(error) + ("" if root is error else f" ({first_line(root)})")
        raise StorageError(
            f"{HUB_PREFIX}{name} cannot be pushed: {reason}", "check the connection and HF_ENDPOINT"
        ) from error
