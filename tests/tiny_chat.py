"""A tiny model with random weights that answers messages, and chats with it."""

from __future__ import annotations

from collections.abc import Callable

from chat_templates import STYLES
from gptcli.chat.dialogue import Dialogue
from gptcli.chat.messages import MessageTranscript
from gptcli.chat.story import StoryTranscript
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.generate.config import EngineConfig, SamplingParams
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.session import ModelRequest, Session
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import byte_tokenizer

GREEDY = SamplingParams(max_new_tokens=12, temperature=0.0)
LETTERS = dict.fromkeys(byte_tokenizer().encode("abc\N{DUCK}"), 8.0)
SAMPLED = GREEDY.model_copy(update={"temperature": 1.0, "seed": 5, "logit_bias": LETTERS})


def tiny_session(style: str = "chatml", tokenizer: Tokenizer | None = None, **shape: object) -> Session:
    """A session of a model that reads conversations by a style of chat_templates.py; "" is a base model."""
    tokenizer = tokenizer or byte_tokenizer().with_special_tokens(["<|im_start|>", "<|im_end|>"])
    if style:
        tokenizer = tokenizer.with_chat_template(STYLES[style])
    sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 96, "n_layer": 1, "n_head": 2, "n_embd": 32, **shape}
    model = build_model(ModelConfig(**sizes), seed=7).eval()
    return Session(model, tokenizer, None, "tiny", request=ModelRequest("tiny", device="cpu"))


def dialogue_of(
    session: Session,
    encoder: ChatEncoder | None,
    params: SamplingParams = GREEDY,
    on_drop: Callable[[str], None] = lambda line: None,
) -> Dialogue:
    """A chat; without an encoder it is a story."""
    stops = session.stop_ids
    transcript = StoryTranscript(session.tokenizer, stops) if encoder is None else MessageTranscript(session, encoder)
    return Dialogue(session.engine(EngineConfig(rows=1)), session.tokenizer, transcript, params, on_drop)
