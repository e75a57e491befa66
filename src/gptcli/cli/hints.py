"""Commands and options of other programs, and their replacements in gptcli."""

from __future__ import annotations

from typing import Any

from typer import BadParameter

from gptcli.cli.help_page import Command, CommandGroup

INSTEAD_OF_COMMANDS = {
    "server": "gptcli serve RUN",
    "api": "gptcli serve RUN",
    "fine-tune": "gptcli finetune BASE DATA",
    "sft": "gptcli finetune BASE DATA",
    "lora": "gptcli finetune BASE DATA --method lora",
    "dpo": "gptcli finetune BASE PREFERENCES --method dpo",
    "plot": "gptcli runs show RUN",
    "list": "gptcli runs",
    "ls": "gptcli runs",
    "status": "gptcli runs show RUN",
    "talk": "gptcli chat RUN",
    "sample": 'gptcli generate RUN "PROMPT"',
    "complete": 'gptcli generate RUN "PROMPT"',
    "inference": 'gptcli generate RUN "PROMPT"',
    "evaluate": "gptcli eval RUN",
    "perplexity": "gptcli eval RUN TEXT",
    "test": "gptcli eval RUN TEXT",
    "resume": "gptcli train --resume --out RUN",
    "pretrain": "gptcli train CORPUS",
    "prepare": "gptcli data prepare CORPUS",
    "tokenize": "gptcli tokenizer encode TOKENIZER",
    "convert": "gptcli import SOURCE --out MODEL, and gptcli export RUN --to FORMAT --out FILE",
    "download": "gptcli import hf:NAME --out MODEL",
    "verify": "gptcli checkpoint verify RUN",
    "benchmark": "gptcli bench",
    "doctor": "gptcli selfcheck",
    "self-check": "gptcli selfcheck",
    "estimate": "gptcli plan CONFIG",
}
"""Replacements for commands that do not exist."""
INSTEAD_OF_TRAINING_OPTIONS = {
    "--output-dir": "--out",
    "--out-dir": "--out",
    "--max-time": "--time",
    "--num-processes": "--nproc",
}
INSTEAD_OF_SAMPLING_OPTIONS = {
    "--max-tokens": "--max-new-tokens",
    "--max-length": "--max-new-tokens",
    "--length": "--max-new-tokens",
    "--tokens": "--max-new-tokens",
    "--temp": "--temperature",
    "--stop-sequence": "--stop",
}
INSTEAD_OF_OPTIONS = {
    "chat": INSTEAD_OF_SAMPLING_OPTIONS | {"--system-prompt": "--system", "--history": "--load"},
    "generate": {
        **INSTEAD_OF_SAMPLING_OPTIONS,
        "--num-return-sequences": "--num-samples",
        "--samples": "--num-samples",
        "--prompts": "--prompt-file",
        "--file": "--prompt-file",
    },
    "serve": {"--bind": "--host", "--uds": "--unix-socket", "--api-key": "--api-key-file"},
    "eval": {"--block-size": "--context", "--few-shot": "--num-fewshot", "--benchmark": "--tasks"},
    "train": INSTEAD_OF_TRAINING_OPTIONS,
    "finetune": {**INSTEAD_OF_TRAINING_OPTIONS, "--finetuning-type": "--method"},
}
"""Replacements for options that do not exist, by command."""
BASE_FIRST = "gptcli finetune BASE DATA"
INSTEAD_OF_WORDS = {
    "finetune": {
        **dict.fromkeys(("--lora", "--peft", "--use-peft", "--qlora", "--adapter"), "--method lora"),
        **dict.fromkeys(("--full", "--sft"), "--method full"),
        "--dpo": "--method dpo",
        **dict.fromkeys(
            ("--base", "--base-model", "--model", "--model-name-or-path", "--pretrained", "--init-from"), BASE_FIRST
        ),
        **dict.fromkeys(("--data", "--dataset", "--train-file", "--dataset-name"), BASE_FIRST),
    }
}
"""Replacements for options that do not exist, by command, which take no value."""


class Verbs(CommandGroup):
    """The `gptcli` command, whose usage errors take one line and name the replacement of an unknown command."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that is named.

        Raises:
            UsageError: an argument or an option has an invalid value.
        """
        try:
            return super().invoke(ctx)
        except BadParameter as error:
            from gptcli.errors import UsageError

            message = error.format_message().replace(": Input should", ": it should").replace(": Value error, ", ": ")
            verb = error.ctx.command_path.removeprefix(ctx.command_path) if error.ctx else ""
            raise UsageError(message[:1].lower() + message[1:].rstrip("."), f"see gptcli{verb} --help") from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is named.

        Raises:
            UsageError: it is one of another program.
        """
        name = args[0] if args else ""
        if name in INSTEAD_OF_COMMANDS and name not in self.commands:
            from gptcli.errors import UsageError

            raise UsageError(f"there is no command {name!r}", INSTEAD_OF_COMMANDS[name])
        return super().resolve_command(ctx, args)


class Verb(Command):
    """A command whose errors name the option or configuration key that replaces an unknown option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            UsageError: an option is one of another program, or a configuration key.
        """
        known = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        before_end = args[: args.index("--")] if "--" in args else args
        for position, argument in enumerate(before_end):
            name, equals, value = argument.partition("=")
            if not name.startswith("--") or name in known or name == "--help":
                continue
            if not equals and position + 1 < len(args) and not args[position + 1].startswith("-"):
                value = args[position + 1]
            if instead := self.instead_of(name, value, "--set" in known):
                from gptcli.errors import UsageError

                raise UsageError(f"{ctx.command_path} has no option {name}", f"write {instead}")
        return super().parse_args(ctx, args)

    def instead_of(self, name: str, value: str, has_keys: bool) -> str | None:
        """Return the replacement for an unknown option, or None; `has_keys` is True if the command has --set."""
        from gptcli.console import shell_word

        value = shell_word(value) if value else "..."
        if words := INSTEAD_OF_WORDS.get(self.name or "", {}).get(name):
            return words
        option = INSTEAD_OF_OPTIONS.get(self.name or "", {}).get(name)
        if option is not None:
            return f"{option} {value}"
        if not has_keys:
            return None
        from gptcli.config.names import key_named
        from gptcli.train.config import RunConfig

        key = key_named(RunConfig, name.removeprefix("--"))
        return f"--set {key}={value}" if key else None
