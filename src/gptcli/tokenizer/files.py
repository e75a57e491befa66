"""The files of a tokenizer, one at a time: tokenizer.json and the JSON files beside it.

Every error is a TokenizerError that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from gptcli import strict_json
from gptcli.errors import TokenizerError
from gptcli.storage import LARGE, read_regular, storage_errors, write_atomic
from gptcli.tokenizer.library import library_errors
from gptcli.tokenizer.untrusted import require_usable

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""The chat template as transformers 5 writes it. It counts more than the one in tokenizer_config.json, which older
programs read; both are written."""
MORE_TEMPLATES, DEFAULT_TEMPLATE = "additional_chat_templates", "default"
"""The folder of further templates, and the name of the usual one."""
WRITTEN_FILES = (TOKENIZER_FILE, SETTINGS_FILE, CHAT_TEMPLATE_FILE)
"""Files that `write_files` writes, the last one only for a tokenizer with a chat template."""
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"

Built = TypeVar("Built")

WHAT_TO_GIVE = f"give a {TOKENIZER_FILE}, or a folder with one or with {VOCAB_FILE} and {MERGES_FILE}"


def write_files(folder: Path, backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Write tokenizer_config.json, the chat template and then tokenizer.json, which makes the folder a tokenizer; each
    is whole or absent.
    """
    content = strict_json.dumps(settings, indent=2, ensure_ascii=False)
    if has_surrogates(content):  # only an escape can represent them
        content = strict_json.dumps(settings, indent=2)
    write_atomic(folder / SETTINGS_FILE, content + "\n")
    template = settings.get("chat_template")
    if isinstance(template, str) and not has_surrogates(template):
        write_atomic(folder / CHAT_TEMPLATE_FILE, template)
    else:
        (folder / CHAT_TEMPLATE_FILE).unlink(missing_ok=True)
    write_atomic(folder / TOKENIZER_FILE, backend.to_str(pretty=True))


def has_surrogates(text: str) -> bool:
    """Return whether a text has half surrogate pairs, which no UTF-8 holds."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def read_chat_templates(folder: Path) -> dict[str, str]:
    """Return the chat templates of a folder by name: chat_template.jinja is the default one, and those of
    additional_chat_templates are for special uses.
    """
    files = {DEFAULT_TEMPLATE: folder / CHAT_TEMPLATE_FILE}
    files |= {path.stem: path for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}
    return {name: read_chat_template(path) for name, path in files.items() if path.exists()}


def read_chat_template(path: Path) -> str:
    """Return the content of a file with a chat template."""
    with storage_errors(path, "read"):
        content = read_regular(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 at byte {error.start}", "save it as UTF-8") from error


def templates_by_name(value: Any) -> dict[str, str]:
    """Return the chat templates that tokenizer_config.json has: one template, or a list of {"name", "template"}
    tables.
    """
    entries = value if isinstance(value, list) else [{"name": DEFAULT_TEMPLATE, "template": value}]
    pairs = [(entry.get("name"), entry.get("template")) for entry in entries if isinstance(entry, Mapping)]
    return {name: template for name, template in pairs if isinstance(name, str) and isinstance(template, str)}


def templates_as_setting(templates: Mapping[str, str]) -> str | list[dict[str, str]]:
    """Return chat templates as tokenizer_config.json has them."""
    if set(templates) == {DEFAULT_TEMPLATE}:
        return templates[DEFAULT_TEMPLATE]
    return [{"name": name, "template": template} for name, template in templates.items()]


def read_json(path: Path) -> dict[str, Any]:
    """Return one JSON object from a regular file, which a tokenizer's vocabulary may make large."""
    with storage_errors(path, "read"):
        content = read_regular(path, LARGE)
    try:
        value = strict_json.parse(content)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}", WHAT_TO_GIVE) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds no JSON object", WHAT_TO_GIVE)
    return value


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json without the settings that would change the ids of a text: truncation, padding and BPE
    dropout.
    """
    spec = read_json(path)
    if not isinstance(spec.get("model"), dict):
        raise TokenizerError(f"{path} is not a tokenizer: it has no model", WHAT_TO_GIVE)
    spec = {**spec, "truncation": None, "padding": None}
    if "dropout" in spec["model"]:
        spec["model"] = {**spec["model"], "dropout": None}
    try:
        content = strict_json.dumps(spec)
    except RecursionError as error:
        raise TokenizerError(f"{path} is nested too deeply", WHAT_TO_GIVE) from error
    require_usable(path, spec, content)
    backend = build(path, lambda: tokenizers.Tokenizer.from_str(content))
    require_declared_ids(path, backend, spec)
    return backend


def require_declared_ids(path: Path, backend: tokenizers.Tokenizer, spec: Mapping[str, Any]) -> None:
    """Raise a TokenizerError for an added token to which the library gives another id than its file.

    The library numbers added tokens by its own order if the ids of a file leave gaps or contradict the vocabulary.
    """
    for token in spec.get("added_tokens") or ():
        found = backend.token_to_id(token["content"])
        if token["content"] and found != token["id"]:
            raise TokenizerError(
                f"{path} gives the added token {token['content'][:40]!r} the id {token['id']:,}, but the tokenizers "
                f"library gives it {found:,}",
                "fetch the file again, or use another tokenizer",
            )


def build(path: Path, read: Callable[[], Built]) -> Built:
    """Run a reader of `tokenizers`; its errors become a TokenizerError that names the file."""
    with library_errors(f"{path} is not a tokenizer that the tokenizers library can read"):
        return read()
