"""`gptcli chat`: messages are read, answered, and commands obeyed, until the input ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from gptcli.chat.commands import Commands
from gptcli.chat.dialogue import Dialogue, Pieces
from gptcli.chat.interface import LineInterface, interface
from gptcli.chat.messages import MessageTranscript
from gptcli.chat.story import StoryTranscript
from gptcli.chat.transcript import Transcript
from gptcli.console import say
from gptcli.errors import GptcliError
from gptcli.generate.config import EngineConfig, SamplingParams
from gptcli.session import ModelRequest, Session, open_session

ONE_ROW = EngineConfig(rows=1)
"""A chat has one request at a time, whose slot the next one continues."""


@dataclass(frozen=True)
class ChatOptions:
    """A chat as the user asks for it.

    Attributes:
        model: the model.
        params: the settings of sampling.
        system: the system message, or None.
        load: a file with the transcript to begin with, or None.
    """

    model: ModelRequest
    params: SamplingParams
    system: str | None = None
    load: str | None = None


def chat(request: ChatOptions) -> None:
    """Talk with a model until stdin ends.

    Raises:
        UsageError, DataError, StorageError: the system message or the file cannot be used; off a terminal, also any
            error of a message or a command.
        CheckpointError, TokenizerError: the model cannot be read.
    """
    ends = interface()
    session = open_session(request.model)
    with transcript_of(session) as transcript:
        dialogue = Dialogue(session.engine(ONE_ROW), session.tokenizer, transcript, request.params, ends.note)
        say(f"{transcript.description} The context is {dialogue.context:,} tokens; /help lists the commands.")
        if request.load is not None:
            say(f"{request.load}: {dialogue.read(request.load)}")
        if request.system is not None:
            transcript.set_system(request.system)
        converse(dialogue, ends)


@contextmanager
def transcript_of(session: Session) -> Iterator[Transcript]:
    """Yield an empty transcript of the kind that a model reads."""
    if session.tokenizer.chat_template is None:
        yield StoryTranscript(session.tokenizer, session.stop_ids)
        return
    with session.chat_encoder() as encoder:
        yield MessageTranscript(session, encoder)


def converse(dialogue: Dialogue, ends: LineInterface) -> None:
    """Answer messages and obey commands until the input ends."""
    commands = Commands(dialogue, ends.note)
    while True:
        try:
            text = ends.read()
            with ends.stopping():
                pieces = respond(dialogue, commands, text)
                if pieces is not None:
                    show(pieces, ends)
                    tell_end(dialogue, ends)
        except EOFError:
            return
        except KeyboardInterrupt:
            ends.interrupted()
        except GptcliError as error:
            ends.failed(error)


def respond(dialogue: Dialogue, commands: Commands, text: str) -> Pieces | None:
    """Obey a command, or return the pieces of the reply to a message."""
    if commands.is_command(text):
        return commands.run(text)
    if not text.strip() and not dialogue.can_continue:
        return None
    return dialogue.say(text.removeprefix("/") if text.startswith("//") else text)


def show(pieces: Pieces, ends: LineInterface) -> None:
    """Write a reply as it grows, until it ends or the user stops it."""
    with closing(pieces):
        for piece in pieces:
            ends.write(piece)
            if ends.is_stopped:
                break
    ends.end_reply()


def tell_end(dialogue: Dialogue, ends: LineInterface) -> None:
    """Say why a reply ended, if it was not its end."""
    reply = dialogue.last
    if reply is None:
        return
    match reply.end:
        case "stopped":
            ends.note("stopped: an empty line goes on, /retry writes another answer")
        case "length":
            limit = dialogue.params.max_new_tokens
            ends.note(f"cut after {limit:,} tokens: an empty line goes on (/set max_new_tokens={2 * limit})")
        case "context":
            ends.note(f"the context of {dialogue.context:,} tokens is full: /undo or /reset makes room")
        case "eot" if dialogue.transcript.takes_nothing:
            ends.note("the text ends here: what you write next begins another")
        case _ if not reply.text:
            ends.note("the answer is empty: /retry writes another one")
