"""The models that a server is given, by name, and those that it takes over while it runs."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.errors import CheckpointError, UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.serve.loading import ModelLoader, read_sources
from gptcli.serve.models import ModelTable
from gptcli.serve.openai.errors import ApiError
from gptcli.serve.settings import ServeSettings
from gptcli.serve.watching import WatchedRun
from gptcli.session import ModelRequest
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer

Save = Callable[[int], Path]
REQUEST = ModelRequest("", device="cpu")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run without checkpoints, as at the beginning of a training."""
    run = RunDirectory.create(tmp_path / "story")
    run.config_path.write_text("")
    build_tokenizer(ByteTokenizerConfig(), lambda: iter(())).save(run.path)
    return run


@pytest.fixture
def save(run: RunDirectory) -> Save:
    """save(step) writes a checkpoint of a tiny model drawn from the step."""
    vocab_size = build_tokenizer(ByteTokenizerConfig(), lambda: iter(())).vocab_size
    config = ModelConfig(vocab_size=vocab_size, context_length=32, n_layer=1, n_head=2, n_embd=32)

    def save(step: int) -> Path:
        model = build_model(config, seed=step, dtype=torch.float32)
        state = {"val_loss": 1 / step, "config": {"model": config.model_dump()}}
        return save_checkpoint(run, step, {"model": model.state_dict()}, state)

    return save


@pytest.mark.parametrize(
    ("argument", "name", "path"),
    [
        ("runs/book", "book", "runs/book"),
        ("runs/book/", "book", "runs/book/"),
        ("my=runs/book", "my", "runs/book"),
        ("org/my-model:v1=a=b", "org/my-model:v1", "a=b"),
        ("hf:openai-community/gpt2", "openai-community/gpt2", "hf:openai-community/gpt2"),
        ("runs/my run", "my-run", "runs/my run"),
        ("/srv/Müsli", "M-sli", "/srv/Müsli"),
    ],
)
def test_a_model_has_the_name_that_is_given_or_that_of_its_directory(argument: str, name: str, path: str) -> None:
    (source,) = read_sources([argument], REQUEST)
    assert (source.name, source.request.path) == (name, path)


def test_a_directory_with_an_equals_sign_in_its_name_is_a_directory(run: RunDirectory, tmp_path: Path) -> None:
    directory = run.path.rename(tmp_path / "lr=0.1")
    (source,) = read_sources([str(directory)], REQUEST)
    assert (source.name, source.request.path) == ("lr-0.1", str(directory))


@pytest.mark.parametrize("argument", ["=run", "a b=run", "../x=run", "name=", "x" * 300 + "=run"])
def test_what_can_be_no_name_is_refused(argument: str) -> None:
    with pytest.raises(UsageError, match="name"):
        read_sources([argument], REQUEST)


def test_two_models_of_one_name_need_another() -> None:
    with pytest.raises(UsageError, match="OTHER=a/book"):
        read_sources(["a/book", "b/book"], REQUEST)


def test_the_newest_checkpoint_is_opened_once(run: RunDirectory, save: Save) -> None:
    watched = WatchedRun(ModelRequest(str(run.path), device="cpu"))
    assert watched.newer() is None
    save(10)
    save(20)
    session = watched.newer()
    assert session is not None and session.step == 20
    assert watched.newer() is None
    save(30)
    session = watched.newer()
    assert session is not None and session.step == 30


def test_a_damaged_checkpoint_is_named_once_and_the_one_before_it_taken(
    run: RunDirectory, save: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    save(10)
    weights = save(20) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    watched = WatchedRun(ModelRequest(str(run.path), device="cpu"))
    session = watched.newer()
    assert session is not None and session.step == 10
    assert "step-00000020" in capsys.readouterr().err
    assert watched.newer() is None
    assert "step-00000020" not in capsys.readouterr().err
    save(30)
    session = watched.newer()
    assert session is not None and session.step == 30


def test_a_training_that_begins_again_is_followed(run: RunDirectory, save: Save) -> None:
    watched = WatchedRun(ModelRequest(str(run.path), device="cpu"))
    save(30)
    assert watched.newer() is not None
    for path in run.checkpoints_dir.iterdir():
        path.rename(run.path / "old")
    save(10)
    session = watched.newer()
    assert session is not None and session.step == 10


def test_only_a_run_can_be_watched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run"):
        WatchedRun(ModelRequest(str(tmp_path), device="cpu"))


@pytest.fixture
def loader(run: RunDirectory) -> Iterator[ModelLoader]:
    sources = read_sources([str(run.path)], REQUEST)
    table, failed = ModelTable(["story"]), threading.Event()
    settings = ServeSettings(watch_seconds=0.01, slots=2, queue=200)
    loader = ModelLoader(table, sources, settings, True, failed.set)
    loader.start()
    yield loader
    loader.stop()
    table.close()
    assert not failed.is_set()


def test_a_watched_run_is_loading_until_its_first_checkpoint_and_its_newest_one_takes_over(
    loader: ModelLoader, save: Save
) -> None:
    table = loader.table
    assert table.states() == {"story": "loading"}
    with pytest.raises(ApiError, match="loading"):
        table.get("story")
    save(10)
    wait_until(lambda: table.states() == {"story": "ready"})
    first = table.get("story")
    save(20)
    wait_until(lambda: table.get("story").session.step == 20)
    assert first.session.step == 10 and first.worker.is_alive  # for those who began with it
    worker, model = first.worker, weakref.ref(first.session.model)
    del first
    assert worker.has_ended.wait(10)
    del worker
    wait_until(lambda: gc.collect() is not None and model() is None)


def test_an_unknown_model_is_refused_with_the_names_of_those_that_exist(loader: ModelLoader) -> None:
    with pytest.raises(ApiError, match="this server has story") as refused:
        loader.table.get("other")
    assert refused.value.status == 404


def test_a_shorter_context_lets_more_samples_fit_in_memory(
    run: RunDirectory, save: Save, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(1)
    monkeypatch.setattr("gptcli.serve.loading.machine_memory_bytes", lambda device: 60_000)
    found = {}
    for context in (None, 8):
        table = ModelTable(["story"])
        settings = ServeSettings(slots=4, context=context)
        loader = ModelLoader(table, read_sources([str(run.path)], REQUEST), settings, False, lambda: None)
        loader.put("story", loader.session_of(loader.sources[0]))
        served = table.get("story")
        found[served.context] = served.worker.statistics.slots
        assert served.facts.context == served.context
        served.worker.close()
        loader.stop()
    assert found[32] < found[8] == 4
    assert f"ready: story ({found[32]} sample" in (said := capsys.readouterr().err) and said.endswith("ready: story\n")
