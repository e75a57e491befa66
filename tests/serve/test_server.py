"""The server on a real socket: connections that stall, addresses that cannot be had, signals, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from command import gptcli
from gptcli.errors import StorageError, UsageError
from gptcli.generate.sample import Sample
from gptcli.serve.access import NO_KEYS, ApiKeys
from gptcli.serve.app import create_app
from gptcli.serve.listener import address, listening, warn_of_openness
from gptcli.serve.models import ModelTable, ServedModel
from gptcli.serve.pool import TextPool
from gptcli.serve.server import Server
from gptcli.serve.settings import ServeSettings
from gptcli.serve.worker import EngineWorker
from gptcli.session import Session
from served_process import ServedProcess, served_process, write_chat_model

SETTINGS = ServeSettings(port=0, log="none", head_seconds=0.5, write_seconds=0.5, max_connections=12, drain_seconds=5)


class Running(NamedTuple):
    """A server in a thread of this process."""

    port: int
    worker: EngineWorker

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def ask(self, path: str) -> socket.socket:
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return connection


@pytest.fixture(scope="module")
def running(session: Session, make_sample: Callable[..., Sample]) -> Iterator[Running]:
    """With a route that streams the ids of a long sample, and one that streams without end."""
    from gptcli.generate.config import EngineConfig
    from gptcli.serve.worker import WorkerLimits

    worker = EngineWorker(session.engine(EngineConfig(rows=4)), WorkerLimits(4, 100, 60))
    table, pool = ModelTable(["tiny"]), TextPool()
    table.put(ServedModel("tiny", session, worker, None, pool))
    app = create_app(table, SETTINGS)

    async def sample(request: Request) -> Response:
        async def parts() -> Any:
            async with await worker.submit([make_sample(2000)]) as stream:
                async for advances in stream:
                    yield json.dumps([text.ids for _, texts, _ in advances for text in texts]) + "\n"

        return StreamingResponse(parts())

    async def endless(request: Request) -> Response:
        async def parts() -> Any:
            while True:
                yield b"x" * 10_000

        return StreamingResponse(parts())

    app.router.routes += [Route("/sample", sample), Route("/endless", endless)]
    server = Server(app, SETTINGS)
    with listening(SETTINGS) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield Running(listener.getsockname()[1], worker)
        server.stop()
        thread.join(20)
    table.close()
    pool.close()
    assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def seconds_until_ended(connection: socket.socket) -> float:
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return time.monotonic() - began


def health(running: Running) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{running.port}/health", timeout=20).status_code
    except httpx.HTTPError:
        return 0


def test_a_client_that_goes_frees_its_slot(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(running.ask("/sample"))
        wait_until(lambda: running.worker.under_way == 6 and running.worker.engine.running == 4)
    wait_until(lambda: running.worker.under_way == 0 and running.worker.engine.is_idle)


def test_a_head_that_does_not_come_ends_the_connection(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(running.connect()) for _ in range(3)]
        starts = (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
        for connection, start in zip(connections, starts, strict=True):
            connection.sendall(start)
        assert sum(map(seconds_until_ended, connections)) < 10


def test_a_second_request_that_stalls_ends_the_connection_too(running: Running) -> None:
    with running.ask("/health") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET")
        assert seconds_until_ended(connection) < 5


@pytest.mark.slow
def test_a_reader_that_reads_nothing_is_let_go(running: Running) -> None:
    with running.ask("/endless") as connection:
        time.sleep(2.5)
        assert seconds_until_ended(connection) < 5  # with what the system had received


def test_connections_beyond_the_limit_are_refused_and_the_others_go_on(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(running.connect()) for _ in range(20)]
        last = connections[-1]
        last.settimeout(20)
        assert last.recv(100).startswith(b"HTTP/1.1 503")
        assert connections[0].getpeername()
    wait_until(lambda: health(running) == 200)


def test_the_loop_answers_while_the_engine_is_busy(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(running.ask("/sample"))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=20))
        wait_until(lambda: running.worker.engine.running == 4)
        times = sorted(client.get("/health").elapsed.total_seconds() for _ in range(20))
        assert running.worker.under_way > 0
    assert times[len(times) // 2] < 0.1


# --- the socket


def test_a_port_in_use_is_one_line() -> None:
    with listening(ServeSettings(port=0)) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is in use; choose another: --port 0"),
            listening(ServeSettings(port=port)),
        ):
            pass


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "x" * 300, "a b"])
def test_an_address_of_another_machine_is_one_line(host: str) -> None:
    with pytest.raises(UsageError, match="no address of this machine"), listening(ServeSettings(host=host, port=0)):
        pass


def test_addresses_are_printed_as_urls() -> None:
    with listening(ServeSettings(port=0)) as listener:
        assert address(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        with contextlib.suppress(UsageError), listening(ServeSettings(host="::1", port=0)) as listener:
            assert address(listener) == f"http://[::1]:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("host", "keys", "warns"), [("127.0.0.1", [], 0), ("0.0.0.0", [], 1), ("0.0.0.0", ["k" * 16], 0)]
)
def test_an_open_server_without_a_key_warns(
    host: str, keys: list[str], warns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(ServeSettings(host=host, port=0)) as listener:
        warn_of_openness(listener, ApiKeys(keys))
    assert capsys.readouterr().err.count("warning: whoever reaches this machine") == warns


def test_a_unix_socket_is_for_user_and_group_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    settings = ServeSettings(unix_socket=str(path))
    with listening(settings) as listener:
        assert address(listener) == f"unix:{path}" and stat.S_IMODE(os.lstat(path).st_mode) == 0o660
        warn_of_openness(listener, NO_KEYS)
        with pytest.raises(UsageError, match="is in use"), listening(settings):
            pass
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    with listening(settings):
        pass
    path.write_text("something else")
    with pytest.raises(UsageError, match="is in use"), listening(settings):
        pass
    assert path.read_text() == "something else"
    with pytest.raises(StorageError, match="cannot be made"), listening(ServeSettings(unix_socket=str(path / "x"))):
        pass


# --- the command


def test_mistakes_are_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("short")
    lines = {
        ("run", "--port", "99999"): "port",
        ("run", "--slots", "0"): "slots",
        ("run", "--watch", "--checkpoint", "last"): "leave out --checkpoint",
        ("a/run", "b/run"): "two models have the name run",
        ("run", "--api-key-file", str(keys)): "API key",
        ("run", "--api-key-file", str(tmp_path / "none")): "none",
        ("run", "--unix-socket", "/dev/null"): "/dev/null is in use",
    }
    for words, said in lines.items():
        done = gptcli("serve", *words)
        assert done.returncode in (2, 5) and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.cli.serve.find_spec", lambda name: None)
    done = gptcli("serve", "run")
    assert done.returncode == 2 and "pip install 'gptcli[serve]'" in done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("served") / "tiny", context_length=2048)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_line(tmp_path: Path) -> None:
    done = gptcli("serve", str(tmp_path / "nothing"), "--port", "0")
    assert done.returncode == 4 and done.stderr.splitlines()[-1].startswith("gptcli: ")
    assert "does not exist" in done.stderr.splitlines()[-1]


def chat(port: int, **fields: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 1, **fields}
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread, and the result or the error of HTTP of the function that it calls."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(function())
        except httpx.HTTPError as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, found


def log_of(server: ServedProcess) -> str:
    return "".join(server.log)


def metrics(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/metrics").text


@contextlib.contextmanager
def busy(server: ServedProcess, max_tokens: int, count: int = 1) -> Iterator[list[Any]]:
    """In the block the server works on a request, whose answer or error is in the list after it."""
    endless = dict.fromkeys(map(str, range(256, 259)), -100)  # the special tokens, which would end an answer
    thread, found = in_thread(lambda: chat(server.port, max_tokens=max_tokens, n=count, logit_bias=endless))
    wait_until(lambda: re.search(r'gptcli_slots_used{model="tiny"} [1-9]', metrics(server.port)) is not None)
    yield found
    thread.join(30)


@pytest.mark.slow
def test_sigterm_lets_requests_end_and_the_server_ends_with_0(model: Path) -> None:
    with served_process(model, "--drain-seconds", "60") as server:
        port = server.port
        with busy(server, max_tokens=500) as found:
            assert server.stop(signal.SIGTERM) == 0
        assert found[0].status_code == 200 and found[0].json()["usage"]["completion_tokens"] > 1
        with pytest.raises(httpx.ConnectError):
            metrics(port)
        assert "stopping: 1 request" in log_of(server) and "Traceback" not in log_of(server)


@pytest.mark.slow
def test_the_drain_has_a_limit_and_a_second_signal_ends_it_at_once(model: Path) -> None:
    with served_process(model, "--drain-seconds", "1") as server, busy(server, max_tokens=2000, count=16):
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 10
    with served_process(model, "--drain-seconds", "60") as server, busy(server, max_tokens=2000, count=16):
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping")
        assert server.stop(signal.SIGTERM, seconds=10) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_the_curl_lines_of_the_docs_are_answered(root: Path, model: Path) -> None:
    text = (root / "docs" / "serving.md").read_text()
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", text, re.S) if "curl" in block]
    parts = [part for block in blocks for part in re.split(r"^(?=curl )", block, flags=re.M)]  # one may take many lines
    commands = [part.partition("\n#")[0] for part in parts if part.startswith("curl ")]
    assert len(commands) >= 6
    with served_process(model) as server:
        for command in commands:
            assert "http://127.0.0.1:8000" in command
            line = command.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
            done = subprocess.run(
                ["bash", "-c", line.replace("curl", "curl --silent --show-error --fail-with-body --max-time 60", 1)],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0 and done.stdout, (command, done.stdout, done.stderr)
