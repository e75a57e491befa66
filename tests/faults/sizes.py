"""Numbers of any size in configs and headers, and files that are no files or far too large, given to every command that
reads them: one line, little memory, no waiting.

A directory of some kilobytes must not take a gigabyte, whatever it claims to hold. Each case is a directory or a file
of that kind and the command that reads it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from faults.ends import Bounds, wrong_end
from faults.nursery import Command, Nursery
from faults.victim import make_corpus, train_command
from gptcli.errors import GptcliError
from gptcli.manifest import MANIFEST_NAME

BOUNDS = Bounds(seconds=60, growth=2**30, line=2000)
LONGEST_SECONDS = 10.0
"""Processor time that a command may take."""
MOST_MEMORY = 6 * 2**30
"""Bytes of further address space that a command may take, so that one that takes all does not stop the machine."""
AT_ONCE = 2
CODES = frozenset({0, *(kind.exit_code for kind in GptcliError.__subclasses__() if kind.exit_code < 128)} - {1, 6})
VALUES: tuple[Any, ...] = (0, -1, 2**27, 2**31, 2**63, 10**25, 1.5, "x", None, [], True)


class Case(NamedTuple):
    """What is hostile, the command that reads it, and the exit codes that it may have."""

    name: str
    arguments: list[Any]
    codes: frozenset[int] = CODES


@dataclass
class Sizes:
    """Counts of a campaign, and what went wrong in words."""

    trials: dict[str, int] = field(default_factory=dict)
    most_growth: int = 0
    longest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class Victims(NamedTuple):
    """What the cases are made of: a text, a run of ours, and a model directory of each family."""

    corpus: Path
    run: Path
    models: dict[str, Path]


def size_campaign(nursery: Nursery, folder: Path, part: float = 1.0, seed: int = 0) -> Sizes:
    """Show a random part of the cases of each kind to their commands."""
    counts, corpus = Sizes(), make_corpus(folder)
    run = folder / "run"
    assert nursery.run(train_command(corpus, run, train__max_steps=10), folder).code == 0
    victims = Victims(corpus, run, make_models(folder / "models", run))
    idle = nursery.run(["--version"], folder).peak_bytes
    for kind, make in KINDS.items():
        chosen = random.Random(seed)
        waiting = [case for case in make(folder / kind, victims) if chosen.random() < part]
        counts.trials[kind] = len(waiting)
        show_all(nursery, folder, waiting, idle, counts)
        shutil.rmtree(folder / kind, ignore_errors=True)
    return counts


def show_all(nursery: Nursery, folder: Path, cases: Sequence[Case], idle: int, counts: Sizes) -> None:
    for first in range(0, len(cases), AT_ONCE):
        some = cases[first : first + AT_ONCE]
        started = [
            (case, nursery.start(case.arguments, folder, memory=MOST_MEMORY, ends_at_once=True)) for case in some
        ]
        for case, command in started:
            counts.failures += [f"{case.name}: {wrong}" for wrong in wrong_after(case, command, idle, counts)]
            for file in (command.stdout_path, command.stdout_path.with_suffix(".err")):
                file.unlink(missing_ok=True)


def wrong_after(case: Case, command: Command, idle: int, counts: Sizes) -> list[str]:
    """Everything that a command did wrong; `idle` are the bytes that it had when it was forked."""
    wrong = list(wrong_end(command, case.codes, BOUNDS, idle))
    counts.most_growth = max(counts.most_growth, command.peak_bytes - idle)
    counts.longest_seconds = max(counts.longest_seconds, command.cpu_seconds)
    if command.cpu_seconds > LONGEST_SECONDS:
        wrong.append(f"{command.cpu_seconds:.0f} seconds of processor time")
    return wrong


SLOTS: dict[str, dict[str, Any]] = {
    "gpt2": {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "qk_norm": False, "bias": True},
    "gpt_neox": {
        "norm": "layernorm", "mlp": "gelu", "qk_norm": False, "bias": True, "parallel_residual": True,
        "rotary_fraction": 0.5,
    },
    "llama": {
        "qk_norm": False, "rope_scaling": {"name": "llama3", "factor": 8.0, "original_context_length": 24},
        "tie_embeddings": False,
    },
    "mistral": {"qk_norm": False, "window_pattern": (7,)},
    "qwen2": {"qk_norm": False, "qkv_bias": True, "window_pattern": (0, 9)},
    "qwen3": {"rope_scaling": {"name": "yarn", "factor": 4.0, "original_context_length": 16}},
    "olmo2": {"qk_norm_over": "heads", "norm_place": "after"},
    "nanochat": {
        "norm_weight": False, "embedding_norm": True, "mlp": "relu2", "logit_softcap": 15.0, "tie_embeddings": False
    },
    "gptcli": {"smear": True, "bigram_buckets": 16, "window_pattern": (0, 8)},
}  # fmt: skip
"""A small model of each family that is read, by its name in config.json."""


def make_models(folder: Path, run: Path) -> dict[str, Path]:
    """A directory of about 30 kB for each family, with the run's tokenizer."""
    from gptcli.interop.huggingface import write_huggingface
    from gptcli.models.config import ModelConfig
    from gptcli.models.gpt import build_model
    from gptcli.tokenizer.tokenizer import load_tokenizer

    tokenizer, made = load_tokenizer(run), {}
    sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 16}
    for family, slots in SLOTS.items():
        model = build_model(ModelConfig(**sizes, intermediate_size=24, **slots))
        write_huggingface(model, tokenizer, folder / family, native=family == "gptcli")
        assert json.loads((folder / family / "config.json").read_text())["model_type"] == family
        made[family] = folder / family
    return made


def copied(source: Path, target: Path) -> Path:
    """A copy whose manifest is gone, so that what is changed in it is read."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(MANIFEST_NAME))
    return target


def verbs_of_model(model: Path, victims: Victims, place: Path) -> list[list[Any]]:
    """The commands that read a model directory."""
    return [
        ["generate", model, "line", "--max-new-tokens", 40],
        ["eval", model, victims.corpus],
        ["import", model, "--out", place],
        ["train", victims.corpus, "--init-from", model, "--dry-run", "--set=data.val_fraction=0.1"],
    ]


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all whole numbers in a JSON value, and of numbers in tables below the first."""
    if isinstance(value, bool):
        return
    if isinstance(value, int) or (isinstance(value, float) and len(path) > 1):
        yield path
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers_in(item, (*path, key))


def replaced(value: Any, path: Sequence[Any], new: Any) -> Any:
    """A JSON value with another one at `path`."""
    changed = json.loads(json.dumps(value))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return changed


def config_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    """Every number of every family's config.json; of the values each takes a part, and the verbs take turns."""
    number = 0
    for family, source in victims.models.items():
        config = json.loads((source / "config.json").read_text())
        for place, path in enumerate(numbers_in(config)):
            for value in VALUES[(place + len(family)) % 3 :: 3]:
                model = folder / f"model-{number}"
                model.mkdir(parents=True)
                for file in source.iterdir():
                    (model / file.name).symlink_to(file)
                (model / "config.json").unlink()
                (model / "config.json").write_text(json.dumps(replaced(config, path, value)))
                verbs = verbs_of_model(model, victims, folder / f"out-{number}")
                yield Case(f"{family}: {'.'.join(map(str, path))} = {value!r}", verbs[number % len(verbs)])
                number += 1


def header_of(weights: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    length = struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def with_header(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def header_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    """Numbers in the header of model.safetensors and in an index of shards."""
    source = victims.models["qwen3"]
    header, data = header_of((source / "model.safetensors").read_bytes())
    contents = {f"a header of {length} bytes": with_header(header, data, length) for length in (0, 2**24, 2**40, 2**63)}
    names = [name for name in header if name != "__metadata__"]
    for name in (names[0], names[-1]):
        for path in numbers_in(header[name]):
            for value in (*VALUES, 2**40, [2**31, 2**31]):
                place = ".".join(map(str, (name, *path)))
                contents[f"{place} = {value!r}"] = with_header(replaced(header, (name, *path), value), data)
    many = {f"x{i}": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]} for i in range(70_000)}
    contents["70,000 empty tensors"] = with_header(many, b"")
    contents["tensors without numbers"] = with_header(dict(list(many.items())[:50]) | header, data)
    contents["packed dtypes"] = with_header({**header, names[0]: {**header[names[0]], "dtype": "F4"}}, data)
    for number, (name, content) in enumerate(contents.items()):
        model = copied(source, folder / f"header-{number}")
        (model / "model.safetensors").write_bytes(content)
        verbs = verbs_of_model(model, victims, folder / f"out-{number}")
        yield Case(f"safetensors: {name}", verbs[number % len(verbs)])
    yield from index_cases(folder, victims)


def index_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    maps: dict[str, Any] = {
        "50,000 shards": {f"t{i}": f"model-{i:05}.safetensors" for i in range(50_000)},
        "one shard 100,000 times": {f"t{i}": "a.safetensors" for i in range(100_000)},
        "a long name": {"t": "a" * 10**6 + ".safetensors"},
        "numbers": {"t": 2**63},
        "a list": [1] * 10**5,
        "a NUL": {"t": "a\0.safetensors"},
    }
    for number, (name, weight_map) in enumerate(maps.items()):
        model = copied(victims.models["qwen3"], folder / f"index-{number}")
        (model / "model.safetensors").rename(model / "a.safetensors")
        index = {"metadata": {"total_size": 10**25}, "weight_map": weight_map}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        yield Case(f"index: {name}", ["generate", model, "line"], frozenset({0, 4, 5}))


def llama2c_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    """The seven numbers at the beginning of llama2.c's files, and files of others that are named for it."""
    folder.mkdir(parents=True)
    numbers = (16, 24, 2, 2, 2, 64, 32)
    contents: dict[str, bytes] = {}
    for place in range(len(numbers)):
        for value in (0, -1, 1, 2**20, 2**27, 2**31 - 1, -(2**31)):
            changed = [value if i == place else number for i, number in enumerate(numbers)]
            contents[f"number {place} = {value}"] = struct.pack("<7i", *changed) + bytes(8192)
    contents["a GGUF file of 2^63 tensors"] = b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63) + bytes(64)
    for number, (name, content) in enumerate(contents.items()):
        path = folder / f"model-{number}.bin"
        path.write_bytes(content)
        command = ["import", path, "--tokenizer", victims.run, "--out", folder / f"out-{number}"]
        yield Case(f"llama2.c: {name}", command, frozenset({2, 4}))


def large_json(path: Path) -> None:
    """A file of 300 MB, of which the disk holds next to nothing."""
    with path.open("wb") as file:
        file.write(b'{"a": "')
        file.truncate(300_000_000)


def nested_json(path: Path) -> None:
    path.write_bytes(b"[" * 10**6)


def long_number(path: Path) -> None:
    path.write_bytes(b'{"model_type": ' + b"9" * 10**6 + b"}")


STAND_INS: Mapping[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/tty": lambda path: path.symlink_to("/dev/tty"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a directory": Path.mkdir,
    "300 MB": large_json,
    "deep nesting": nested_json,
    "a number of a million digits": long_number,
}
MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
    "model.safetensors.index.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt",
)  # fmt: skip
RUN_FILES = (
    "run.toml", "data.json", "summary.json", "metrics.jsonl", "samples.jsonl", "tokenizer.json",
    "tokenizer_config.json", "config.json", "model.safetensors", "val/index.json", "val/tokens-00000.bin",
    "train-sketch/index.json", MANIFEST_NAME,
)  # fmt: skip
CHECKPOINT_FILES = ("manifest.json", "state.json", "model.safetensors", "optimizer.safetensors")


def put_in_place(path: Path, stand_in: Callable[[Path], object]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    stand_in(path)


def file_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    """Something else in the place of each file of a model directory, of a run and of a checkpoint."""
    number = 0
    for name in MODEL_FILES:
        for kind, stand_in in STAND_INS.items():
            model = copied(victims.models["qwen3"], folder / f"model-{number}")
            if name in ("vocab.json", "merges.txt"):
                (model / "tokenizer.json").unlink()
                (model / "vocab.json").write_text('{"a": 0}')
                (model / "merges.txt").write_text("#version: 0.2\n")
            if name.endswith("index.json"):
                (model / "model.safetensors").unlink()
            put_in_place(model / name, stand_in)
            verbs = [
                *verbs_of_model(model, victims, folder / f"out-{number}"),
                ["tokenizer", "describe", model],
                ["tokenizer", "encode", model, "line"],
            ]
            yield Case(f"{name} is {kind}", verbs[number % len(verbs)])
            number += 1
    newest = sorted((victims.run / "checkpoints").iterdir())[-1].relative_to(victims.run)
    for name in (*RUN_FILES, *(str(newest / name) for name in CHECKPOINT_FILES)):
        for kind, stand_in in STAND_INS.items():
            run = folder / f"run-{number}"
            shutil.copytree(victims.run, run)
            put_in_place(run / name, stand_in)
            verbs = [
                ["generate", run, "line", "--checkpoint", "last", "--max-new-tokens", 2],
                ["eval", run],
                ["checkpoint", "verify", run],
                ["checkpoint", "list", run],
                ["train", "--resume", run],
                ["data", "inspect", run / "val"],
            ]
            yield Case(f"{Path(name).name} of a run is {kind}", verbs[number % len(verbs)])
            number += 1


def named_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    """What the user names: settings, prompts, rows, templates, tokenizers and corpora."""
    folder.mkdir(parents=True)
    run, corpus, number = victims.run, victims.corpus, 0
    for kind, stand_in in STAND_INS.items():
        if kind == "a pipe":
            continue  # which is read when the user names it, and waits for a writer
        path = folder / f"named-{number}"
        stand_in(path)
        dry = ["--dry-run", "--out", folder / "out"]
        for arguments in (
            ["train", corpus, "-c", path, *dry],
            ["train", path, *dry, "--set=train.corpus_bytes=100000"],
            ["train", corpus, f"--set=data.chat_template={path}", *dry],
            ["train", corpus, f"--set=data.tokenizer={{name='file',path='{path}'}}", *dry],
            ["plan", path],
            ["generate", run, "--prompt-file", path, "--max-new-tokens", 2, "--whole-file"],
            ["eval", run, "--choices", path],
            ["eval", run, path],
            ["tokenizer", "describe", path],
            ["tokenizer", "encode", run, "--file", path],
            ["data", "inspect", path],
            ["import", path, "--tokenizer", run, "--out", folder / f"imported-{number}"],
        ):
            yield Case(f"{' '.join(map(str, arguments[:2]))}, where {kind} is named", arguments)
        number += 1
    yield from corpus_cases(folder, victims)


def corpus_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    """Folders, globs and archives that hold pipes, devices and links in circles beside a text."""
    place = folder / "texts"
    place.mkdir()
    shutil.copy(victims.corpus, place / "book.txt")
    os.mkfifo(place / "pipe.txt")
    (place / "zero.txt").symlink_to("/dev/zero")
    (place / "circle.txt").symlink_to("circle.txt")
    (place / "below").mkdir()
    (place / "below" / "above").symlink_to(place)
    for pattern in ("", "/*", "/**", "/**/*.txt", "/*/*/*/*.txt", "/**/above/**"):
        for verb in (["train", f"{place}{pattern}", "--dry-run", "--out", folder / "out"],
                     ["eval", victims.run, f"{place}{pattern}"], ["data", "inspect", f"{place}{pattern}"],
                     ["tokenizer", "train", f"{place}{pattern}", "--out", folder / "tokenizer"]):  # fmt: skip
            yield Case(f"{verb[0]} texts{pattern}", verb)


HUGE_KEYS = {
    "model.head_dim": (2**27,),
    "model.intermediate_size": (2**27,),
    "model.n_embd": (10**7, 2**27),
    "model.n_head": (2**27,),
    "model.vocab_size": (10**8, 10**9),
    "model.bigram_buckets": (2**27,),
    "model.context_length": (2**27,),
    "train.batch_size": (10**9, 2**62),
    "train.tokens_per_step": (16 * 10**10, 2**62),
    "train.seq_len": (2**27,),
    "train.eval_tokens": (2**62,),
    "train.max_steps": (10**15,),
    "train.sample_tokens": (2**62,),
    "data.tokenizer.vocab_size": (10**9,),
}
"""Settings that ask for more than any machine has, or for more than there is to read."""


def own_cases(folder: Path, victims: Victims) -> Iterator[Case]:
    """Settings and options of ours: the estimate answers, and nothing is allocated."""
    folder.mkdir(parents=True)
    corpus, run = victims.corpus, victims.run
    small = [
        argument for argument in train_command(corpus, run) if argument.startswith("--set=") and "name" not in argument
    ]
    for key, values in HUGE_KEYS.items():
        for value in values:
            given = [*small, "--set=model.n_layer=4", "--set=train.max_steps=1", f"--set={key}={value}"]
            toml = folder / f"{key}-{value}.toml"
            section, _, name = key.rpartition(".")
            toml.write_text(f"[{section}]\n{name} = {value}\n")
            said, at_once = f"{key}={value}", frozenset({0, 2, 3, 7})
            yield Case(
                f"train --dry-run, {said}", ["train", corpus, "--dry-run", "--out", folder / "out", *given], at_once
            )
            yield Case(f"plan, {said}", ["plan", toml, "--gpu", "cpu"], at_once)
            if key.startswith("model.") or value == 2**62:
                command = ["train", corpus, "--out", folder / f"run-{key}-{value}", *given]
                yield Case(f"train, {said}", command, at_once)
    for value in (0, 2**27, 10**12, 10**25):
        for command in (
            ["generate", run, "line", "--max-new-tokens", 2, "--num-samples", 2, "--batch-size", value],
            ["generate", run, "line", "--max-new-tokens", 2, "--top-k", value],
            ["generate", run, "line", "--max-new-tokens", 8, "--speculate", value],
            ["generate", run, "line", "--max-new-tokens", 2, "--num-samples", value or 1],
            ["eval", run, corpus, "--context", value],
            ["eval", run, corpus, "--stride", value],
            ["eval", run, corpus, "--batch-size", value],
            ["eval", run, corpus, "--worst", value],
            ["data", "inspect", run / "val", "--windows", value],
            ["plan", "gpt2-124m", "--gpus", value],
            ["plan", "gpt2-124m", "--batch-size", value],
            ["plan", "gpt2-124m", "--seq-len", value],
            ["tokenizer", "train", corpus, "--out", folder / "tokenizer", "--vocab-size", value],
        ):
            yield Case(" ".join(map(str, [command[0], *command[-2:]])), command, frozenset({0, 2, 3, 7}))


KINDS: dict[str, Callable[[Path, Victims], Iterator[Case]]] = {
    "config": config_cases,
    "header": header_cases,
    "llama2.c": llama2c_cases,
    "file": file_cases,
    "named": named_cases,
    "own": own_cases,
}
