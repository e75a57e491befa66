"""Commands in a chat, which begin with a slash."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import NamedTuple

from gptcli.chat.dialogue import Dialogue, Pieces
from gptcli.chat.files import SavedFiles
from gptcli.config import RawConfig, parse_assignment, validate
from gptcli.console import quantity, terminal_columns
from gptcli.errors import UsageError
from gptcli.generate.config import SamplingParams

COMMAND = re.compile(r"/(\S*)\s*(.*)", re.DOTALL)
ASSIGNMENTS = re.compile(r"\s+(?=[A-Za-z_.]+\d*=)")
"""Matches the blanks between two assignments."""
NONE = "none"
OTHER_NAMES = {"quit": "exit", "bye": "exit", "clear": "reset", "new": "reset", "regenerate": "retry", "q": "exit"}
"""Names of commands in other programs."""
WIDE = 76
"""Columns from which a command and what it does stand in one line."""


class SlashCommand(NamedTuple):
    """A command.

    Attributes:
        usage: the command as it is typed.
        effect: what it does, for people.
        run: the function that obeys it, with what follows its name; it returns the pieces of a reply, or None.
    """

    usage: str
    effect: str
    run: Callable[[str], Pieces | None]


class Commands:
    """The commands of a chat.

    Args:
        dialogue: the chat.
        note: receives lines for the user.
    """

    def __init__(self, dialogue: Dialogue, note: Callable[[str], None]) -> None:
        self.dialogue, self.note, self.files = dialogue, note, SavedFiles()
        listed = (
            SlashCommand("/help", "show this list", self.help),
            SlashCommand("/system TEXT", "set the system message (none removes it), or show it", self.system),
            SlashCommand("/reset", "begin anew, with the same system message", self.reset),
            SlashCommand("/retry", "answer the last message again, with another seed", self.retry),
            SlashCommand("/undo", "remove the last message and its answer", self.undo),
            SlashCommand("/save FILE", "write the conversation to a new file", self.save),
            SlashCommand("/load FILE", "read it from a file, in place of this one", self.load),
            SlashCommand("/set KEY=VALUE", "change how answers are drawn, or show it", self.set),
            SlashCommand("/tokens", "show how much of the context is used", self.tokens),
            SlashCommand("/exit", "leave, as Ctrl-D does", self.exit),
        )
        self.by_name = {command.usage.split()[0][1:]: command for command in listed}

    def is_command(self, text: str) -> bool:
        """Return whether a text is a command. A text of several lines is one only if its first word is known."""
        match = COMMAND.match(text)
        return match is not None and not text.startswith("//") and ("\n" not in text or match[1] in self.by_name)

    def run(self, text: str) -> Pieces | None:
        """Obey a command, and return the pieces of a reply if it asks for one.

        Raises:
            GptcliError: there is no such command, or it cannot be obeyed.
            EOFError: the chat ends.
        """
        match = COMMAND.match(text)
        name, argument = (match[1], match[2].strip()) if match else ("", "")
        command = self.by_name.get(name)
        if command is None:
            close = difflib.get_close_matches(name, self.by_name, n=1)
            known = OTHER_NAMES.get(name) or (close[0] if close else "help")
            raise UsageError(f"there is no command /{name}", f"write /{known}, or //{name} for a message with a slash")
        if argument and " " not in command.usage:
            raise UsageError(f"/{name} takes no argument", f"write /{name}")
        return command.run(argument)

    def help(self, argument: str) -> None:
        """List the commands."""
        width = max(len(command.usage) for command in self.by_name.values())
        for command in self.by_name.values():
            if terminal_columns() >= WIDE:
                self.note(f"{command.usage:<{width}}  {command.effect}")
            else:
                self.note(command.usage)
                self.note(f"    {command.effect}")
        self.note("A line that ends with \\ goes on in the next one; a pasted text may have many lines.")

    def system(self, argument: str) -> None:
        """Set the system message, or show it."""
        if argument:
            self.dialogue.transcript.set_system("" if argument == NONE else argument)
        self.note(f"system message: {self.dialogue.transcript.system or NONE}")

    def reset(self, argument: str) -> None:
        """Begin anew."""
        self.dialogue.reset()
        self.note("a new conversation")

    def retry(self, argument: str) -> Pieces:
        """Answer the last message again."""
        return self.dialogue.retry()

    def undo(self, argument: str) -> None:
        """Remove the last turn."""
        self.note(f"removed: {shortened(self.dialogue.undo()) or 'an empty line'}")

    def save(self, argument: str) -> None:
        """Write the conversation to a file."""
        transcript = self.dialogue.transcript
        if not argument:
            raise UsageError("/save needs a file", f"write /save chat{(*transcript.suffixes, '.txt')[0]}")
        self.files.save(argument, transcript.content(), transcript.suffixes)
        self.note(f"saved to {argument}{f'; {transcript.warning}' if transcript.warning else ''}")

    def load(self, argument: str) -> None:
        """Read a conversation from a file."""
        if not argument:
            suffix = (*self.dialogue.transcript.suffixes, ".txt")[0]
            raise UsageError("/load needs a file", f"write /load chat{suffix}")
        self.note(f"{argument}: {self.dialogue.read(argument)}")

    def set(self, argument: str) -> None:
        """Change settings of sampling, or show them."""
        params = self.dialogue.params
        if argument:
            values = [sampling_value(text) for text in ASSIGNMENTS.split(argument)]
            params = validate(SamplingParams, RawConfig(params.model_dump() | dict(values)))
            self.dialogue.set_params(params)
        shown = {key: value for key, value in params.model_dump().items() if key != "logprobs"}
        names = [key for key, _ in values] if argument else list(shown)
        self.note(", ".join(f"{key}={setting(shown[key])}" for key in names))

    def tokens(self, argument: str) -> None:
        """Show how much of the context is used."""
        usage = self.dialogue.usage()
        left_out = ": its beginning will be left out" if usage.used > usage.context else ""
        self.note(f"{quantity(usage.used, 'token')} of a context of {usage.context:,}{left_out}")
        if usage.prompt:
            self.note(
                f"before the last answer: {quantity(usage.prompt, 'token')}, {usage.cached:,} of them from the cache; "
                f"the answer: {quantity(usage.written, 'token')}"
            )

    def exit(self, argument: str) -> None:
        """End the chat."""
        raise EOFError


def sampling_value(text: str) -> tuple[str, object]:
    """Return the key and the value of an assignment to a setting of sampling.

    Raises:
        UsageError: it is none, or has no effect in a chat.
    """
    if "=" not in text:
        raise UsageError(f"{shortened(text)!r} sets nothing", "write a key and a value: /set temperature=0.7")
    ((key, value),) = parse_assignment(text).values.items()
    if key == "logprobs":
        raise UsageError("logprobs have no effect in a chat", "gptcli generate prints them with --json")
    if isinstance(value, dict):  # logit_bias, whose keys are ids; TOML has texts
        value = {int(name) if name.isdecimal() else name: number for name, number in value.items()}
    if isinstance(value, list):
        value = tuple(value)
    if key == "stop" and isinstance(value, str):
        value = (value,)
    return key, None if value == NONE else value


def setting(value: object) -> str:
    """Return a value as it is typed after /set."""
    return NONE if value is None else repr(list(value)) if isinstance(value, tuple) else str(value)


def shortened(text: str, most: int = 60) -> str:
    """Return the beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
