"""`python scripts/bench serve`: what its client reads, what it counts, and one small load of a real server."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from bench.serving import client, servers
from bench.serving.client import Answer, Manner, ask
from bench.serving.gaps import Window, gaps, quantile
from bench.serving.load import LoadRequest, measure
from bench.serving.model import ModelChoice, prepare_model
from bench.serving.speed import measure as measure_speed
from bench.serving.speed_parts import SpeedRequest
from gptcli.errors import UsageError
from gptcli.report.bench.options import BenchOptions

OPTIONS = BenchOptions(rounds=1, seconds=0.0, threads=1, device="cpu")
TINY = ModelChoice("demo", ("model.n_layer=1", "model.n_embd=32", "model.n_head=2"))


def answered(*pieces: bytes, manner: Manner = client.PROMPT) -> Answer:
    """What the client makes of these bytes of a server."""

    async def exchange() -> Answer:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()

        server = await asyncio.start_server(serve, client.HOST, 0)
        async with server:
            return await ask(server.sockets[0].getsockname()[1], {"prompt": "a"}, manner)

    return asyncio.run(exchange())


def event(text: str, reason: str | None = None, **more: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": reason}], **more}).encode() + b"\n\n"


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def test_the_client_joins_events_that_are_cut_anywhere() -> None:
    body = (
        STREAM + event("one ") + event("two") + event("", "stop", usage={"completion_tokens": 7}) + b"data: [DONE]\n\n"
    )
    for cut in (1, len(STREAM) + 9, len(body) - 3):
        found = answered(body[:cut], body[cut:])
        assert (found.text, found.finish_reason, found.tokens, len(found.times)) == ("one two", "stop", 7, 2)
        assert found.is_whole and 0 < found.first_seconds <= found.ended - found.sent


def test_an_answer_that_is_cut_or_an_error_is_not_whole() -> None:
    assert not answered(STREAM + event("one")).is_whole
    assert not answered(b"").is_whole
    assert answered(STREAM + b'data: {"error": {"message": "no"}}\n\n').error == "no"
    refused = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 2\r\n\r\n{}"
    found = answered(refused)
    assert (found.status, found.retry_after, found.is_whole) == (429, 3.0, False)


def test_a_client_that_leaves_does_so_after_its_pieces() -> None:
    body = STREAM + event("one") + event("two") + event("", "stop")
    found = answered(body, manner=Manner(leaves_after=1))
    assert found.has_left and found.text == "one"
    assert answered(body, manner=Manner(leaves_after=0)).has_left


def test_times_between_pieces_are_told_apart_by_windows() -> None:
    outside, inside = gaps([0, 1, 2, 5, 6], [Window(2.5, 3)])
    assert (outside, inside) == ([1, 1, 1], [3])
    assert quantile(range(1, 101), 0.95) == 95 and quantile([4], 0.5) == 4 and math.isnan(quantile([], 0.5))


def test_unknown_servers_and_short_contexts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="server 'vllm' is unknown; choose from"):
        servers.choose_programs(["vllm"])
    prepared = prepare_model(TINY, 128, tmp_path / "model")
    assert len(prepared.tokenizer.encode(prepared.text(40, 1))) == pytest.approx(40, abs=4)
    with pytest.raises(UsageError, match="more than the model's context"):
        prepare_model(ModelChoice(str(tmp_path / "model")), 10**6, tmp_path)


@pytest.mark.slow
def test_every_client_of_a_small_load_is_accounted_for() -> None:
    request = LoadRequest(TINY, clients=24, leaving=6, slow=4, different=8, longest=64, minutes=0)
    found = measure(request, OPTIONS).results
    assert found["answered"] + found["left"] == found["requests"] == 24 and found["left"] <= 6
    assert (found["different_answers"], found["gave_up"], found["errors"], found["alone_failed"]) == (0, 0, {}, 0)
    assert found["waves_with_slots_in_use"] == 0 and found["release_seconds"] is not None and found["status"] == 0
    assert set(found["after"].values()) == {0.0}


@pytest.mark.slow
def test_the_speed_of_the_server_is_measured_in_every_part() -> None:
    request = SpeedRequest(TINY, clients=(1, 2), prompt_tokens=8, new_tokens=4, long_tokens=40, chat_tokens=60)
    ours = measure_speed(request, OPTIONS, [servers.PROGRAMS[servers.OURS]]).results["contenders"]["gptcli"]
    assert all(one["tokens_per_second"]["median"] > 0 for one in ours["clients"].values())
    assert ours["clients"]["2"]["same_texts"] == ours["clients"]["2"]["texts"] == 8  # at least 8 answers a round
    assert ours["chat"]["second_over_first"]["median"] > 0 and ours["reading"]["beside"]["count"] > 0
