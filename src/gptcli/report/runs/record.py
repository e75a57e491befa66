"""The records of one run. This module does not import torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gptcli.checkpoint.metrics import MetricsLog
from gptcli.data.source_names import corpora
from gptcli.errors import GptcliError
from gptcli.figures import Interval, scaled
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import parameter_count

State = Literal["running", "stopped", "finished", "damaged"]
Json = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """The records of a run.

    Attributes:
        damages: what cannot be read or is missing, one line each.
        config: run.toml; `data`, `summary`: data.json and summary.json. Empty where they are missing or damaged.
        first, last: the first and the last line of metrics.jsonl; empty where there is none.
        evaluated: the newest line with a validation loss.
    """

    path: Path
    is_locked: bool
    damages: tuple[str, ...] = ()
    config: Json = field(default_factory=dict)
    data: Json = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    first: Json = field(default_factory=dict)
    last: Json = field(default_factory=dict)
    evaluated: Json = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.path.name or str(self.path)

    @property
    def state(self) -> State:
        """Whether a process trains it, it was stopped, it has come to its end, or its files are damaged."""
        if self.is_locked:
            return "running"
        if self.damages:
            return "damaged"
        return "finished" if self.summary else "stopped"

    def setting(self, *keys: str) -> Any:
        """Return a value of run.toml, or None."""
        return value_of(self.config, *keys)

    @property
    def corpus(self) -> tuple[str, ...]:
        """The last parts of the names of what it is trained on."""
        try:
            return tuple(corpora(self.config))
        except (AttributeError, KeyError, TypeError):  # of another version
            return ()

    @property
    def method(self) -> str:
        """The method: `train`, `finetune`, `lora` or `dpo`."""
        if self.setting("objective", "name") == "dpo":
            return "dpo"
        if self.setting("adapter", "name") == "lora":
            return "lora"
        return "finetune" if self.setting("data", "kind") == "examples" else "train"

    @property
    def text_bytes(self) -> int | None:
        """Bytes of the training text."""
        return whole_number(value_of(self.data, "train", "bytes"))

    @property
    def parameters(self) -> int | None:
        """Weights of the model, all of them."""
        if "parameters" in self.summary:
            return whole_number(self.summary["parameters"])
        try:
            return parameter_count(ModelConfig.model_validate(self.setting("model")))
        except ValueError:  # of another version
            return None

    @property
    def steps(self) -> int | None:
        """Steps that were made, as far as they are logged."""
        return whole_number(self.summary.get("steps", self.last.get("step")))

    @property
    def planned_steps(self) -> int | None:
        """Steps that were planned; None where a time limit decides."""
        return whole_number(self.setting("train", "max_steps"))

    @property
    def epochs(self) -> float | None:
        """How often the training text was read."""
        tokens = number(self.summary.get("tokens", self.last.get("tokens")))
        in_loss = value_of(self.data, "examples", "train", "tokens_in_loss")  # of examples only these are counted
        total = number(self.data.get("train_tokens") if in_loss is None else in_loss)
        return None if not tokens or not total else tokens / total

    @property
    def val_loss(self) -> float | None:
        """Nats a token (a pair, with DPO) of the validation split: of the best weights, or the newest evaluation."""
        return number(self.summary.get("val_loss", self.evaluated.get("val_loss")))

    @property
    def val_loss_interval(self) -> Interval | None:
        """Its 95 % interval; None before the end."""
        return interval(self.summary.get("val_loss_interval"))

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of the validation text; None before the end, or where they would mean nothing."""
        return number(self.summary.get("val_bits_per_byte"))

    @property
    def bits_interval(self) -> Interval | None:
        """Their 95 % interval."""
        loss, bits = self.val_loss, self.bits_per_byte
        return scaled(self.val_loss_interval, bits / loss) if loss and bits is not None else None

    @property
    def seconds(self) -> float | None:
        """Time that it trained."""
        return number(self.summary.get("train_seconds", self.last.get("elapsed_seconds")))

    @property
    def device(self) -> str | None:
        """The device that it trained on, or that it was to train on where that was not recorded."""
        found = self.summary.get("device", self.setting("device"))
        return found if isinstance(found, str) else None

    @property
    def started(self) -> float | None:
        """Seconds since 1970 at which its first step was made."""
        time, elapsed = number(self.first.get("time")), number(self.first.get("elapsed_seconds"))
        return None if time is None else time - (elapsed or 0)

    @property
    def ended(self) -> float | None:
        """Seconds since 1970 of its last logged step."""
        return number(self.last.get("time"))

    @cached_property
    def disk_bytes(self) -> int:
        """Bytes of its files."""
        return sum(size for _, size in files_below(self.path))

    def lines(self) -> list[Json]:
        """Return the lines of metrics.jsonl; none where it is damaged."""
        return read_lines(self.path / "metrics.jsonl")

    def samples(self) -> list[Json]:
        """Return the lines of samples.jsonl; none where it is damaged."""
        return read_lines(self.path / "samples.jsonl")

    def as_dict(self) -> Json:
        """Return the record for JSON."""
        return {
            "run": str(self.path),
            "name": self.name,
            "state": self.state,
            "damages": list(self.damages),
            "method": self.method,
            "corpus": list(self.corpus),
            "text_bytes": self.text_bytes,
            "parameters": self.parameters,
            "steps": self.steps,
            "planned_steps": self.planned_steps,
            "epochs": self.epochs,
            "val_loss": self.val_loss,
            "val_loss_interval": self.val_loss_interval and list(self.val_loss_interval),
            "bits_per_byte": self.bits_per_byte,
            "bits_per_byte_interval": self.bits_interval and list(self.bits_interval),
            "seconds": self.seconds,
            "device": self.device,
            "started": self.started,
            "ended": self.ended,
            "disk_bytes": self.disk_bytes,
            "verdict": self.summary.get("verdict"),
        }


def read_lines(path: Path) -> list[Json]:
    """Return the whole lines of a log; none if it is damaged."""
    try:
        return MetricsLog(path).read()
    except GptcliError:
        return []


def files_below(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the path and the bytes of every file below a folder; links are not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path))
            else:
                yield entry.path, entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue


def value_of(table: Mapping[str, Any], *keys: str) -> Any:
    """Return the value below these keys, or None."""
    found: Any = table
    for key in keys:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def number(value: Any) -> float | None:
    """Return a finite number, or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def whole_number(value: Any) -> int | None:
    """Return an integer, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def interval(value: Any) -> Interval | None:
    """Return an interval of two finite numbers, or None."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = map(number, value)
    return None if low is None or high is None else (low, high)
