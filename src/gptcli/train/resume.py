"""Resuming a run: its history, and the settings that may change.

`MAY_CHANGE` lists every key that a resumed run accepts with another value. Any other change would make it another
training under the old name: it is an error, which names the key and the command that begins such a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.checkpoint.load import newest_state
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import RawConfig, parse_assignment, validate
from gptcli.config.differences import Difference, differences
from gptcli.config.load import leaves_of
from gptcli.console import say, shell_word
from gptcli.errors import CheckpointError, ConfigError, TokenizerError
from gptcli.interop.run_model import FINAL_WEIGHTS, run_tokenizer
from gptcli.manifest import read_manifest, require_unchanged
from gptcli.models.config import WITHOUT_EFFECT
from gptcli.tokenizer.files import SETTINGS_FILE
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.config import RunConfig

LENGTH = "the learning rate follows the new schedule from here on"
RATE = "from here on"
ROUNDING = "from here on the weights are not, bit for bit, those of the run that was left alone"
NOTHING = ""
MAY_CHANGE: dict[str, str] = {
    "train.max_steps": LENGTH,
    "train.epochs": LENGTH,
    "train.max_seconds": LENGTH,
    "train.pace": LENGTH,
    "schedule.warmup_steps": LENGTH,
    "schedule.decay_fraction": LENGTH,
    "schedule.min_lr": LENGTH,
    "optim.lr": RATE,
    "optim.adamw_lr": RATE,
    "optim.embedding_lr": RATE,
    "optim.head_lr": RATE,
    "device": ROUNDING,
    "parallel": ROUNDING,
    "train.batch_size": ROUNDING,
    "train.precision": ROUNDING,
    "train.tf32": ROUNDING,
    "train.compile": ROUNDING,
    "train.activation_checkpointing": ROUNDING,
    "model.attention": ROUNDING,
    "model.dropout": ROUNDING,
    "model.attention_dropout": ROUNDING,
    "optim.fused": ROUNDING,
    "optim.ns_precision": ROUNDING,
    "train.log_every_steps": NOTHING,
    "train.eval_every_steps": NOTHING,
    "train.checkpoint_every_steps": NOTHING,
    "train.sample_every_steps": NOTHING,
    "train.sample_tokens": NOTHING,
    "train.sample_prompt": NOTHING,
    "train.keep_last": NOTHING,
    "train.keep_best": NOTHING,
    "train.keep_every_steps": NOTHING,
    "train.max_bad_steps": NOTHING,
    "train.patience": NOTHING,
    "train.fingerprints": NOTHING,
    "train.trackers": NOTHING,
    "data.corpus": NOTHING,
    "data.val": NOTHING,
    "data.chat_template": NOTHING,
}
"""The keys and sections that may change when a run is resumed, each with the effect of the change in words. The last
ones name files, which may have moved: a fingerprint checks that they hold the same text."""
ALLOWED = "docs/reliability.md lists what a resume may change"


@dataclass(frozen=True)
class History:
    """The progress of a run before this process; a new run has none."""

    run: RunDirectory | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    """The state in the newest checkpoint, without tensors; empty where there is no checkpoint."""

    @classmethod
    def of(cls, run: RunDirectory) -> History:
        """Return the history of the run.

        Raises:
            CheckpointError: the run holds final weights but no checkpoint, so it cannot be resumed.
        """
        state = newest_state(run)
        if not state and not run.checkpoints() and any((run.path / name).is_file() for name in FINAL_WEIGHTS):
            raise CheckpointError(
                f"{run.path} holds the final weights but no checkpoint, so it cannot be resumed",
                f"train its weights in a new run: gptcli train CORPUS --init-from {shell_word(run.path)}",
            )
        return cls(run, state)

    @property
    def is_resumed(self) -> bool:
        """Whether the run continues an earlier one."""
        return self.run is not None

    @property
    def step(self) -> int:
        """The number of steps that were made."""
        return int(self.state.get("step", 0))

    @property
    def spent_seconds(self) -> float:
        """The seconds of the time budget that were spent."""
        return float(self.state.get("spent_seconds", 0.0))

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that the run was trained with so far; None where nothing was trained.

        Also None, with a warning, where its file is damaged: the text and the settings give the same one again.

        Raises:
            CheckpointError: its settings were changed.
        """
        if self.run is None or not self.state:
            return None
        require_unchanged(self.run.path, SETTINGS_FILE)
        try:
            return run_tokenizer(self.run)
        except (CheckpointError, TokenizerError) as error:
            say(f"warning: {str(error).partition(';')[0]}; it is made again")
            return None

    def is_extended(self, config: RunConfig) -> bool:
        """Return whether there is a time budget that the steps so far were not planned for."""
        seconds, recorded = config.train.max_seconds, self.state.get("config")
        return recorded is not None and seconds is not None and recorded["train"]["max_seconds"] != seconds


NEW = History()


def settings_fingerprint(config: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of a dumped configuration without the keys that a resume may change."""
    leaves = {key: value for key, value in leaves_of(compared(config)) if effect_of(Difference(key, "", "")) is None}
    return hashlib.sha256(strict_json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def resume_command(run: Path, corpus: str = "") -> str:
    """Return the command that resumes a run; `corpus` may name the text again."""
    return f"gptcli train {f'{corpus} ' if corpus else ''}--resume --out {shell_word(run)}"


def require_same_run(history: History, user: RawConfig, base: RawConfig) -> list[str]:
    """Check what the settings of a resumed run change, before the corpus is read.

    Args:
        user: all settings: those in the run's run.toml, and the user's, which override them.
        base: the settings in run.toml alone.

    Returns:
        The changes and their effects, a line each.

    Raises:
        ConfigError: a key differs that a resume may not change, from what the newest checkpoint was trained with; or
            the run has made more steps than are wanted.
    """
    if history.run is None or not history.state:  # a run without a checkpoint begins again, with any settings
        return []
    written = compared(validate(RunConfig, base).model_dump(mode="json")) if is_valid(base) else {}
    recorded = compared(history.state.get("config") or written)
    try:
        config = validate(RunConfig, user)
    except ConfigError:
        refuse_changes(history.run.path, differences(recorded, compared(user.values)), user)
        raise
    wanted = compared(config.model_dump(mode="json"))
    refuse_changes(history.run.path, differences(recorded, wanted), user)
    most = config.train.max_steps
    if most is not None and most < history.step:
        raise ConfigError(
            f"{history.run.path} has made {history.step:,} steps, more than train.max_steps = {most}",
            f"choose more; gptcli checkpoint list {shell_word(history.run.path)} shows which earlier steps are kept",
        )
    manifest, name = read_manifest(history.run.path), history.run.config_path.name
    is_edited = bool(manifest.below([name])) and bool(manifest.damage(name))
    return change_lines(differences(recorded if is_edited else written, wanted), history.step)


def is_valid(raw: RawConfig) -> bool:
    """Return whether the settings are a valid configuration."""
    try:
        validate(RunConfig, raw)
    except ConfigError:
        return False
    return True


def compared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings to compare: of the corpora of a mix only weights and names, since files may move."""
    data = values.get("data")
    if not isinstance(data, Mapping):
        return dict(values)
    mix = data.get("mix")
    if not isinstance(mix, list | tuple) or not all(isinstance(entry, Mapping) for entry in mix):  # none, or not valid
        return dict(values)
    mix = [{key: value for key, value in entry.items() if key != "corpus"} for entry in mix]
    return {**values, "data": {**data, "mix": mix}}


def effect_of(difference: Difference) -> str | None:
    """Return the effect of a changed key on a resumed run, in words; None where the key may not change."""
    section = difference.key.partition(".")[0]
    if difference.key == "model.vocab_size" and difference.new == 0:  # as the tokenizer has it
        return NOTHING
    if difference.key == "data.val" and None in (difference.old, difference.new):  # a file elsewhere, or another split
        return None
    return MAY_CHANGE.get(difference.key, MAY_CHANGE.get(section))


def refuse_changes(run: Path, changes: Iterable[Difference], user: RawConfig) -> None:
    """Raise ConfigError if some changes are not allowed; it names them and the command that begins such a run."""
    refused = [change for change in changes if effect_of(change) is None]
    if not refused:
        return
    said = ", ".join(f"{key} was {shown(old)} and is {shown(new)}" for key, old, new in refused[:5])
    more = f" and {len(refused) - 5} more keys" if len(refused) > 5 else ""
    origins = {user.origins.get(key, "") for key, _, _ in refused} - {""}
    where = f" ({', '.join(sorted(origins))})" if origins else ""
    raise ConfigError(
        f"{run} cannot be resumed with other settings: {said}{more}{where}",
        f"put them back ({ALLOWED}), or train its weights in a new run: {fresh_command(run, refused, user)}",
    )


def fresh_command(run: Path, changes: Iterable[Difference], user: RawConfig) -> str:
    """Return the command that trains the weights of `run` in a new run, with the changes that the weights allow."""
    given = {change.key: change.new for change in changes if settable(change)}
    if "train.tokens_per_step" in given and "train.seq_len" not in given:
        train, model = user.values.get("train", {}), user.values.get("model", {})
        given["train.seq_len"] = train.get("seq_len") or model.get("context_length")
    words = [f"--set {shell_word(assignment(key, value))}" for key, value in given.items()]
    return " ".join([init_command(run, user.values.get("data", {})), *words])


def settable(change: Difference) -> bool:
    """Return whether a training that starts from a model can make this change: the weights do not depend on it."""
    section, _, name = change.key.partition(".")
    fixed = (section == "model" and name not in WITHOUT_EFFECT) or change.key.startswith("data.tokenizer")
    return not fixed and change.new is not None


def init_command(run: Path, data: Mapping[str, Any]) -> str:
    """Return the command that trains the weights of `run` in a new run, on the text or examples that `data` names."""
    corpus, mix = data.get("corpus") or (), data.get("mix") or ()
    source = f"--set {shell_word(f'data.mix={shown(mix)}')}" if mix else " ".join(map(shell_word, corpus)) or "CORPUS"
    if data.get("kind", "text") == "text":
        return f"gptcli train {source} --init-from {shell_word(run)}"
    method = " --method dpo" if data["kind"] == "preferences" else ""
    return f"gptcli finetune {shell_word(run)} {source}{method}"


def assignment(key: str, value: Any) -> str:
    """Return KEY=VALUE for `--set`; a string has no quotes if it is read as a string without them."""
    plain = f"{key}={value}"
    is_plain = isinstance(value, str) and list(leaves_of(parse_assignment(plain).values)) == [(key, value)]
    return plain if is_plain else f"{key}={shown(value)}"


def shown(value: Any) -> str:
    """Return a value in TOML, on one line; None, which TOML lacks, as in Python."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}={shown(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.translate({n: f"\\u{n:04x}" for n in (*range(32), 34, 92, 127)})
        return f'"{escaped}"'
    return str(value)


def change_lines(changes: Iterable[Difference], step: int) -> list[str]:
    """Return the changes with their effects, in one line for each effect."""
    by_effect: dict[str, list[str]] = {}
    for change in changes:
        effect = effect_of(change)
        if effect is not None and change.key != "train.pace":  # which follows from the others
            words = f"{change.key} was {shown(change.old)} and is {shown(change.new)}"
            by_effect.setdefault(effect, []).append(words)
    return [
        f"{'changed':<11} {', '.join(words)} (after step {step:,}{f': {effect}' if effect else ''})"
        for effect, words in by_effect.items()
    ]
