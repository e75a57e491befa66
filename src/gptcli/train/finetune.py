"""The request of `gptcli finetune`: a training on examples that starts from a base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from gptcli.config.load import leaves_of, parse_assignment, with_origin
from gptcli.console import shell_word
from gptcli.errors import UsageError
from gptcli.interop.base_reference import HUB_PREFIX
from gptcli.interop.load import is_model
from gptcli.storage import expanded
from gptcli.train.request import TrainRequest

Method = Literal["full", "lora", "dpo"]

EXAMPLES: Mapping[str, Any] = {"data": {"kind": "examples"}}
"""The settings of a training on examples."""
METHODS: Mapping[str, Mapping[str, Any]] = {
    "full": {**EXAMPLES, "adapter": {"name": "none"}, "objective": {"name": "cross_entropy"}},
    "lora": {**EXAMPLES, "adapter": {"name": "lora"}, "objective": {"name": "cross_entropy"}},
    "dpo": {"data": {"kind": "preferences"}, "objective": {"name": "dpo"}},
}
"""The settings that each method decides."""


def finetune_request(request: TrainRequest, base: str | None, method: Method | None) -> TrainRequest:
    """Return the request of a training that fine-tunes `base` on the examples that the request names.

    Args:
        request: the arguments and options that `gptcli train` has too, with the examples as its corpus.
        base: the model to start from; with `resume` and without examples, the run to continue.
        method: the method; None: the one of the settings, and if they have none, full fine-tuning.

    Raises:
        UsageError: the base model or the examples are not named, or a setting contradicts the method.
    """
    if base is not None and request.resume and not request.corpus and request.out is None:
        request, base = replace(request, corpus=(base,)), None
    elif not request.resume:
        require_named(request, base)
    settings = METHODS[method] if method else {}
    require_no_contradiction(request.assignments, settings, method)
    return replace(
        request,
        init_from=base,
        defaults=with_origin(EXAMPLES, "gptcli finetune"),
        overrides=with_origin(settings, f"--method {method}"),
    )


def require_named(request: TrainRequest, base: str | None) -> None:
    """Require a base model and examples, which a configuration file may name instead.

    Raises:
        UsageError: one of them is missing.
    """
    if base is None and not request.config_files:
        raise UsageError("no base model to fine-tune", "name it: gptcli finetune BASE chats.jsonl")
    word = shell_word(base or "BASE")
    if base and not base.startswith(HUB_PREFIX) and expanded(base).is_file():
        model = next((name for name in request.corpus if is_model(expanded(name))), "BASE")
        words = " ".join(map(shell_word, [model, base, *(name for name in request.corpus if name != model)]))
        raise UsageError(f"{base} is a file, not a base model", f"name the model first: gptcli finetune {words}")
    if request.corpus or request.config_files or any(text.startswith("data.") for text in request.assignments):
        return
    raise UsageError(f"no examples to fine-tune {base} on", f"name them: gptcli finetune {word} chats.jsonl")


def require_no_contradiction(assignments: tuple[str, ...], settings: Mapping[str, Any], method: str | None) -> None:
    """Raise UsageError where `--set` gives a key of the method another value."""
    decided = dict(leaves_of(settings))
    for assignment in assignments:
        for key, value in leaves_of(parse_assignment(assignment).values):
            if key in decided and decided[key] != value:
                raise UsageError(
                    f"--set {key}={value} contradicts --method {method}, which sets it to {decided[key]}",
                    "leave one of them out",
                )
