"""A server in a process of its own, with a tiny model that answers messages."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROGRAM = """
import sys
from gptcli.runtime import prepare
prepare()
from gptcli.serve.loading import read_sources
from gptcli.serve.run import serve
from gptcli.serve.settings import ServeSettings
from gptcli.session import ModelRequest
serve(read_sources(sys.argv[1:2], ModelRequest("", device="cpu")), ServeSettings(**eval(sys.argv[2])))
"""
"""What serves with settings for which the command has no options."""


def write_chat_model(directory: Path, context_length: int = 256) -> Path:
    """A tiny model of bytes with random weights and a chat template, as a Hugging Face directory."""
    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    tokenizer = tokenizer.with_special_tokens(["<|im_start|>", "<|im_end|>"]).with_chat_template(TEMPLATE)
    shape = {"vocab_size": tokenizer.vocab_size, "context_length": context_length}
    config = ModelConfig(**shape, n_layer=2, n_head=2, n_embd=32)
    write_huggingface(build_model(config, seed=7), tokenizer, directory)
    return directory


class ServedProcess:
    """A server that has been started. `log`: the lines of its stderr so far."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self.listener = threading.Thread(target=lambda: self.log.extend(iter(self.process.stderr.readline, "")))
        self.listener.start()

    def wait_for(self, pattern: str, seconds: float = 60.0) -> str:
        """The first group of the first line that matches; raises if there is none in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.log):
                if found := re.search(pattern, line):
                    return found[1] if found.groups() else found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {pattern} in {self.log}")

    @property
    def port(self) -> int:
        return int(self.wait_for(r"http://127\.0\.0\.1:(\d+)"))

    def memory_bytes(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, signum: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(signum)
        code = self.process.wait(seconds)
        self.listener.join(seconds)
        return code


@contextlib.contextmanager
def served_process(model: Path, *options: str, **settings: object) -> Iterator[ServedProcess]:
    """Serve a model by the command with options, or with settings that the command does not have; wait until it is
    ready."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if settings:
        command = [sys.executable, "-c", PROGRAM, str(model), repr({"port": 0, **settings})]
    else:
        command = [sys.executable, "-m", "gptcli", "serve", str(model), "--port", "0", "--device", "cpu", *options]
    server = ServedProcess(command, environment)
    try:
        server.wait_for("^ready")
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
        server.listener.join()
        server.process.stderr.close()
