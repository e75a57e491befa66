"""Two tiny models behind a real socket, one that answers messages and one that continues texts, and OpenAI's client."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import openai
import pytest
import torch
import uvicorn
from starlette.applications import Starlette

from gptcli.generate.config import EngineConfig
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.serve.app import create_app
from gptcli.serve.chat_prompts import ChatPrompts
from gptcli.serve.models import ModelTable, ServedModel
from gptcli.serve.pool import TextPool
from gptcli.serve.settings import ServeSettings
from gptcli.serve.worker import EngineWorker, WorkerLimits
from gptcli.session import ModelRequest, Session
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

PROSE = (
    "The ferry left at nine, and Mara, who had promised to be on it, was still looking for her other boot. "
    "“Leave it,” said her brother; the café wouldn't mind.\n\nShe didn't leave it. She never left anything.\n"
)
SLOTS = 8
CONTEXT = 160
ANSWERS, CONTINUES = "answers", "continues"
"""The names of the models."""
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.tool_calls %}{{ message.tool_calls[0].function.name }}"
    "({{ message.tool_calls[0].function.arguments.city }}){% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def wild_model(vocab_size: int) -> GPT:
    """Untrained, with weights so large that what it draws depends on everything that it has read."""
    shape = {"vocab_size": vocab_size, "context_length": CONTEXT, "n_layer": 2, "n_head": 2, "n_embd": 32}
    return build_model(ModelConfig(**shape, init_std=0.3, tie_embeddings=False), seed=3, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """So few merges that many characters are several tokens."""
    return build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter([PROSE]))


def open_tiny(tokenizer: Tokenizer, name: str) -> Session:
    return Session(wild_model(tokenizer.vocab_size), tokenizer, None, name, request=ModelRequest(name, device="cpu"))


@pytest.fixture(scope="session")
def continuing(tokenizer: Tokenizer) -> Session:
    return open_tiny(tokenizer, CONTINUES)


@pytest.fixture(scope="session")
def answering(tokenizer: Tokenizer) -> Session:
    special = tokenizer.with_special_tokens(["<|im_start|>", "<|im_end|>"]).with_chat_template(TEMPLATE)
    return open_tiny(special, ANSWERS)


@pytest.fixture(scope="session")
def table(continuing: Session, answering: Session) -> Iterator[ModelTable]:
    models, pool = ModelTable([CONTINUES, ANSWERS]), TextPool()
    for session, chat in ((continuing, None), (answering, ChatPrompts(answering))):
        worker = EngineWorker(session.engine(EngineConfig(rows=SLOTS)), WorkerLimits(SLOTS, 64, 60))
        models.put(ServedModel(session.source, session, worker, chat, pool))
    yield models
    models.close()
    pool.close()


SETTINGS = ServeSettings(slots=SLOTS, queue=64, max_samples=32, log="none", allowed_hosts=("testserver",))


@pytest.fixture(scope="session")
def app(table: ModelTable) -> Starlette:
    return create_app(table, SETTINGS)


@contextlib.contextmanager
def listening(app: Starlette) -> Iterator[str]:
    """The URL of a server of this application, which runs in a thread."""
    port = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [port]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{port.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def address(app: Starlette) -> Iterator[str]:
    with listening(app) as url:
        yield url


@pytest.fixture
def address_of_one(table: ModelTable) -> Iterator[str]:
    """The URL of a server with one model, which requests need not name."""
    alone = ModelTable([ANSWERS])
    alone.put(table.get(ANSWERS))
    with listening(create_app(alone, SETTINGS)) as url:
        yield url


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


Answer = Callable[..., openai.types.chat.ChatCompletion]


@pytest.fixture
def ask(client: openai.OpenAI) -> Answer:
    """Answer one message."""

    def ask(content: object = "Who left?", **options: object) -> openai.types.chat.ChatCompletion:
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return client.chat.completions.create(model=ANSWERS, messages=messages, **options)

    return ask


@pytest.fixture
def complete(client: openai.OpenAI) -> Callable[..., openai.types.Completion]:
    """Continue a prompt."""

    def complete(prompt: object = "The ferry", **options: object) -> openai.types.Completion:
        return client.completions.create(model=CONTINUES, prompt=prompt, **options)

    return complete
