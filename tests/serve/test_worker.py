"""The engine's thread, its bounded queue, and the streams of what it generates."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from gptcli.errors import CheckpointError
from gptcli.generate.config import EngineConfig
from gptcli.generate.sample import Sample
from gptcli.serve.openai.errors import ApiError
from gptcli.serve.worker import EngineWorker, QueueFull, Unavailable
from gptcli.session import Session

MakeSample = Callable[..., Sample]
MakeWorker = Callable[..., EngineWorker]
LONG = 2000


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


async def read(worker: EngineWorker, samples: Sequence[Sample]) -> tuple[list[list[int]], list[str]]:
    """The ids of every sample, and why each ended."""
    ids: list[list[int]] = [[] for _ in samples]
    reasons = [""] * len(samples)
    async with await worker.submit(samples) as stream:
        async for advances in stream:
            for number, texts, reason in advances:
                ids[number] += [id for text in texts for id in text.ids]
                reasons[number] = reason or ""
    return ids, reasons


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_what_a_stream_gives_is_what_the_engine_generates_alone(
    session: Session, make_worker: MakeWorker, make_sample: MakeSample
) -> None:
    alone = []
    for seed in range(6):
        sample = make_sample(12, seed=seed)
        list(session.engine(EngineConfig(rows=1)).run([sample.request]))
        alone.append([id for text in sample.take() for id in text.ids])
    worker = make_worker()

    async def together() -> list[Any]:
        return await asyncio.gather(*(read(worker, [make_sample(12, seed=seed)]) for seed in range(6)))

    assert [ids[0] for ids, _ in run(together())] == alone
    assert worker.under_way == 0


def test_samples_of_one_stream_end_each_for_its_own_reason(make_worker: MakeWorker, make_sample: MakeSample) -> None:
    ids, reasons = run(read(make_worker(), [make_sample(3, seed=1), make_sample(9, seed=2)]))
    assert [len(one) for one in ids] == [3, 9] and reasons == ["length", "length"]


def test_leaving_a_stream_frees_its_slots_within_a_step(make_worker: MakeWorker, make_sample: MakeSample) -> None:
    worker = make_worker(slots=2, queue=2)
    samples = [make_sample(LONG, seed=n) for n in range(4)]

    async def leave() -> None:
        async with await worker.submit(samples) as stream:
            await anext(stream)
        await until(lambda: worker.under_way == 0)
        assert worker.engine.is_idle

    run(leave())
    assert all(sample.request.count < LONG for sample in samples)
    assert run(read(worker, [make_sample(4)]))[1] == ["length"]


def test_a_cancelled_task_ends_its_samples(make_worker: MakeWorker, make_sample: MakeSample) -> None:
    worker = make_worker()

    async def cancel() -> None:
        task = asyncio.ensure_future(read(worker, [make_sample(LONG)]))
        await until(lambda: worker.first_token_seconds.count == 1)
        task.cancel()
        await until(lambda: worker.under_way == 0)

    run(cancel())


def test_a_full_queue_refuses_whole_requests_and_says_when_to_come_again(
    make_worker: MakeWorker, make_sample: MakeSample
) -> None:
    worker = make_worker(slots=1, queue=2)

    async def fill() -> None:
        async with await worker.submit([make_sample(LONG)] * 1), await worker.submit([make_sample(LONG, seed=1)]):
            with pytest.raises(QueueFull) as refused:
                await worker.submit([make_sample(), make_sample()])
            assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1
            assert worker.under_way == 2 and worker.waiting == 1
            async with await worker.submit([make_sample(seed=2)]):
                assert worker.waiting == 2

    run(fill())


def test_a_request_ends_when_its_time_is_over(make_worker: MakeWorker, make_sample: MakeSample) -> None:
    worker = make_worker(seconds=0.05)
    with pytest.raises(ApiError, match="within") as ended:
        run(read(worker, [make_sample(LONG)]))
    assert ended.value.status == 504
    run(until(lambda: worker.under_way == 0))


def test_a_slow_reader_gets_everything_and_delays_nobody(make_worker: MakeWorker, make_sample: MakeSample) -> None:
    worker = make_worker()

    async def slow() -> int:
        count = 0
        async with await worker.submit([make_sample(40)]) as stream:
            await until(lambda: worker.under_way == 0)  # it reads nothing before all has been generated
            async for advances in stream:
                assert len(advances) == 1  # one list in the place of forty
                count += sum(len(text.ids) for text in advances[0].texts)
        return count

    assert run(slow()) == 40


def test_a_call_runs_on_the_thread_of_the_engine(make_worker: MakeWorker, make_sample: MakeSample) -> None:
    worker = make_worker()

    async def call() -> None:
        assert (await worker.call(threading.current_thread)) is not threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 / 0)
        assert (await read(worker, [make_sample(2)]))[1] == ["length"]

    run(call())


def test_a_failed_engine_ends_its_streams_and_takes_no_more(
    make_worker: MakeWorker, make_sample: MakeSample, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = make_worker()

    def fail() -> list[Any]:
        raise CheckpointError("the weights are damaged")

    worker.engine.step = fail

    async def use() -> None:
        with pytest.raises(Unavailable):
            await read(worker, [make_sample()])
        assert not worker.is_alive
        with pytest.raises(Unavailable):
            await worker.submit([make_sample()])
        with pytest.raises(Unavailable):
            await worker.call(lambda: 1)

    run(use())
    assert "the engine has failed: the weights are damaged" in capsys.readouterr().err


def test_closing_ends_what_runs_and_what_waits(make_worker: MakeWorker, make_sample: MakeSample) -> None:
    worker = make_worker(slots=1)

    async def close() -> None:
        async with await worker.submit([make_sample(LONG), make_sample(LONG)]) as stream:
            await anext(stream)
            began = time.monotonic()
            worker.close()
            with pytest.raises(Unavailable):
                while True:
                    await anext(stream)
            assert time.monotonic() - began < 10

    run(close())


def test_a_retired_engine_answers_what_it_has_begun_and_is_then_freed(
    session: Session, make_worker: MakeWorker, make_sample: MakeSample
) -> None:
    worker = make_worker()

    async def retire() -> tuple[list[list[int]], list[str]]:
        task = asyncio.ensure_future(read(worker, [make_sample(50)]))
        await until(lambda: worker.under_way == 1)
        worker.retire()
        return await task

    ids, reasons = run(retire())
    assert len(ids[0]) == 50 and reasons == ["length"]
    assert worker.has_ended.wait(10)


def test_nothing_holds_an_engine_whose_worker_has_ended(session: Session) -> None:
    from gptcli.serve.worker import WorkerLimits

    worker = EngineWorker(session.engine(EngineConfig(rows=1)), WorkerLimits(1, 1, 1))
    engine, has_ended = weakref.ref(worker.engine), worker.has_ended
    worker.retire()
    assert has_ended.wait(10)
    del worker
    time.sleep(0.05)  # the thread leaves its last function
    gc.collect()
    assert engine() is None


def test_times_to_the_first_token_and_between_tokens_are_counted(
    make_worker: MakeWorker, make_sample: MakeSample
) -> None:
    worker = make_worker()
    run(read(worker, [make_sample(5), make_sample(5, seed=1)]))
    assert worker.first_token_seconds.count == 2 and worker.token_seconds.count == 8
