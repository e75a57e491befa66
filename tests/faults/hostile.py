"""Files that want to run code, to lead out of their directory, or to take all memory, given to every command that would
read such a file. The command refuses, in one line, and a canary file that they all try to make never appears."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from faults.ends import Bounds, wrong_end
from faults.nursery import Command, Nursery
from faults.victim import make_corpus, train_command
from gptcli.manifest import FORMAT, MANIFEST_NAME, VERSION, dump_with_checksum

BOUNDS = Bounds(seconds=30, growth=600 * 2**20, line=1000)
AT_ONCE = 2


class Case(NamedTuple):
    """A hostile thing: what it is, and the command that reads it. `harmless`: it may also be ignored (exit 0)."""

    name: str
    arguments: list[Any]
    harmless: bool = False


@dataclass
class Hostility:
    """Counts of a campaign, and what went wrong in words."""

    cases: int = 0
    canaries: int = 0
    most_growth: int = 0
    failures: list[str] = field(default_factory=list)


def hostile_campaign(nursery: Nursery, folder: Path, part: float = 1.0) -> Hostility:
    """Show every case, or one of several, to its command."""
    counts, canary = Hostility(), folder / "canary"
    corpus, run = make_corpus(folder), folder / "run"
    assert nursery.run(train_command(corpus, run), folder).code == 0
    idle = nursery.run(["--version"], folder).peak_bytes
    waiting = list(cases(folder / "cases", corpus, run, canary))[:: max(1, round(1 / part))]
    counts.cases = len(waiting)
    while waiting:
        started = [(case, nursery.start(case.arguments, folder)) for case in waiting[:AT_ONCE]]
        del waiting[:AT_ONCE]
        for case, command in started:
            counts.failures += [f"{case.name}: {wrong}" for wrong in wrong_after(case, command, idle, counts)]
        if canary.exists():
            counts.canaries += 1
            counts.failures.append(f"{' or '.join(case.name for case, _ in started)} ran something")
            canary.unlink()
    return counts


def wrong_after(case: Case, command: Command, idle: int, counts: Hostility) -> list[str]:
    """Everything that a command did wrong with a hostile file; `idle` are the bytes that it had when it was forked."""
    wrong = list(wrong_end(command, (0, 2, 3, 4) if case.harmless else (2, 3, 4), BOUNDS, idle))
    counts.most_growth = max(counts.most_growth, command.peak_bytes - idle)
    return wrong


def cases(folder: Path, corpus: Path, run: Path, canary: Path) -> Iterator[Case]:
    for make in (pickle_cases, model_cases, run_cases, config_cases, corpus_cases):
        place = folder / make.__name__
        place.mkdir(parents=True)
        yield from make(place, corpus, run, canary)


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def attacks(canary: Path) -> dict[str, Any]:
    """Objects that make the canary when a plain pickle reader makes them."""
    code = f"open({str(canary)!r}, 'w').close()"
    import builtins
    import subprocess

    return {
        "os.system": Call(os.system, f"touch {canary}"),
        "eval": Call(builtins.eval, f"open({str(canary)!r}, 'w').close()"),
        "exec": Call(builtins.exec, code),
        "open": Call(builtins.open, str(canary), "w"),
        "subprocess": Call(subprocess.check_call, ["touch", str(canary)]),
        "pathlib": Call(Path.touch, canary),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "torch.load": Call(torch.load, str(canary)),
        "torch.hub": Call(torch.hub.load_state_dict_from_url, f"file://{canary}"),
    }


def pickle_cases(folder: Path, corpus: Path, run: Path, canary: Path) -> Iterator[Case]:
    """`.pt` files for `import`, and the same as the weights of a model directory."""
    weights = {"w": torch.ones(2)}
    files: dict[str, Path] = {}
    for name, attack in attacks(canary).items():
        for form in ("zip", "legacy", "plain") if name in ("os.system", "eval") else ("zip",):
            path = folder / f"{name}-{form}.pt"
            if form == "plain":
                path.write_bytes(pickle.dumps({"model": attack}))
            else:
                torch.save({"model": weights, "x": attack}, path, _use_new_zipfile_serialization=form == "zip")
            files[f"pickle {name}, {form}"] = path
    laughs: list[Any] = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    for name, content in {
        "a billion laughs": {"model": weights, "x": laughs},
        "deep nesting": {"model": weights, "x": deep},
        "a tensor of 4 TiB in 4 bytes": {"model": {"w": torch.ones(1).expand(2**40)}},
        "not a table": [1, 2, 3],
    }.items():
        path = folder / f"{name.replace(' ', '-')}.pt"
        torch.save(content, path)
        files[f"pickle {name}"] = path
    files["zip bomb"] = zip_bomb(folder / "bomb.pt")
    files["TorchScript"] = torch_script(folder / "script.pt")
    tokenizer = run
    for name, path in files.items():
        yield Case(name, ["import", path, "--tokenizer", tokenizer, "--out", path.with_suffix("")])
    model = folder / "model-directory"
    shutil.copytree(
        run, model, ignore=shutil.ignore_patterns("run.toml", "checkpoints", "model.safetensors", MANIFEST_NAME)
    )
    shutil.copy(files["pickle os.system, zip"], model / "pytorch_model.bin")
    for verb in (["generate", model, "x"], ["eval", model, "--text", corpus]):
        yield Case(f"a model directory with a pickle, {verb[0]}", verb)


def zip_bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(200_000_000))
    return path


def torch_script(path: Path) -> Path:
    """A program of torch's own, which plain torch.load would run on use."""
    torch.save({"model": {"w": torch.ones(2)}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
    return path


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape or [(end - begin) // 4], "data_offsets": [begin, end]}


HEADERS = {
    "a header of 2^63 bytes": safetensors({}, length=2**63),
    "a header longer than its file": safetensors({}, length=10**9),
    "overlapping tensors": safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "tensors beyond the file": safetensors({"a": entry(0, 8)}, bytes(4)),
    "a shape that overflows": safetensors({"a": entry(0, 8, [2**62, 2**62])}, bytes(8)),
    "negative offsets": safetensors({"a": entry(-8, 0)}, bytes(8)),
    "an unknown dtype": safetensors({"a": entry(0, 8, dtype="EVIL")}, bytes(8)),
    "a header of deep nesting": safetensors(b"[" * 100_000),
    "a header that is no JSON": safetensors(b"\xff\xfe"),
    "nothing at all": b"",
}
FOREIGN_CONFIG = {
    "custom code": {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"},
    "a billion layers": {"num_hidden_layers": 10**9},
    "a billion wide": {"hidden_size": 10**9},
    "a vocabulary of 10^12": {"vocab_size": 10**12},
    "a negative width": {"hidden_size": -5},
}


def model_cases(folder: Path, corpus: Path, run: Path, canary: Path) -> Iterator[Case]:
    """Model directories whose weights, index, config or tokenizer is hostile."""

    def directory(name: str) -> Path:
        place = folder / name.replace(" ", "-").replace("^", "")
        shutil.copytree(run, place, ignore=shutil.ignore_patterns("run.toml", "checkpoints", MANIFEST_NAME))
        return place

    for name, content in HEADERS.items():
        place = directory(name)
        (place / "model.safetensors").write_bytes(content)
        yield Case(f"safetensors: {name}", ["generate", place, "x"])
    for name, target in {"out of it": "../run/model.safetensors", "absolute": str(run / "model.safetensors"),
                         "by a link": "link.safetensors"}.items():  # fmt: skip
        place = directory(f"index {name}")
        (place / "model.safetensors").unlink()
        if name == "by a link":
            (place / target).symlink_to("/dev/zero")
        (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": target}}))
        yield Case(f"an index that leads {name}", ["generate", place, "x"])
    for name, values in FOREIGN_CONFIG.items():
        place = directory(name)
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | values))
        (place / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()")
        yield Case(f"config.json: {name}", ["generate", place, "x"])
    for name, content in {"deep": b"[" * 10**6, "10 MB": b'{"a": "' + b"x" * 10**7 + b'"}'}.items():
        for file in ("config.json", "tokenizer.json"):
            place = directory(f"{file} {name}")
            (place / file).write_bytes(content)
            yield Case(f"{file}: {name}", ["generate", place, "x"])
    place = directory("chat template")
    settings = json.loads((place / "tokenizer_config.json").read_text())
    attack = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch CANARY') }}"
    settings |= {
        "chat_template": attack.replace("CANARY", str(canary)),
        "auto_map": {"AutoTokenizer": ["evil.T", None]},
    }
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    (place / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()")
    yield Case("a template that runs a program", ["generate", place, "x", "--max-new-tokens", 2], harmless=True)


def run_cases(folder: Path, corpus: Path, run: Path, canary: Path) -> Iterator[Case]:
    """Run directories of ours."""
    manifest = sorted((run / "checkpoints").iterdir())[-1].relative_to(run) / "manifest.json"
    state = manifest.with_name("state.json")
    for file in ("run.toml", str(manifest), str(state)):
        for name, content in {"deep": b"[" * 10**5, "10 MB": b"#" * 10**7, "no text": b"\xff\xfe\x00"}.items():
            place = folder / f"{Path(file).name}-{name.replace(' ', '-')}"
            shutil.copytree(run, place, ignore=shutil.ignore_patterns(MANIFEST_NAME))
            (place / file).write_bytes(content)
            of_run = file == "run.toml"  # of a model a checkpoint says what it is
            reads = ["train", "--resume", place] if of_run else ["generate", place, "x", "--checkpoint", "last"]
            yield Case(f"{Path(file).name}: {name}", reads)
    for name, target in {"outside": "/etc/hostname", "a link to an endless one": "/dev/zero"}.items():
        place = folder / f"manifest-{name.replace(' ', '-')}"
        shutil.copytree(run, place, ignore=shutil.ignore_patterns(MANIFEST_NAME))
        (place / MANIFEST_NAME).symlink_to(target)
        yield Case(f"a run's manifest: {name}", ["generate", place, "x"])
    place = folder / "manifest-of-others"
    shutil.copytree(run, place)
    listed = {"../../../etc/hostname": {"bytes": 1, "sha256": "0" * 64}}
    (place / MANIFEST_NAME).write_text(
        dump_with_checksum({"format": FORMAT, "version": VERSION, "files": listed, "logs": {}})
    )
    yield Case("a run's manifest that leads out of it", ["checkpoint", "verify", place])
    for name, target in {"a link to another file": "/etc/hostname", "a link to an endless one": "/dev/zero"}.items():
        place = folder / name.replace(" ", "-")
        shutil.copytree(run, place)
        weights = place / manifest.with_name("model.safetensors")
        weights.unlink()
        weights.symlink_to(target)
        yield Case(f"weights that are {name}", ["generate", place, "x", "--checkpoint", "last"])


def config_cases(folder: Path, corpus: Path, run: Path, canary: Path) -> Iterator[Case]:
    """Files for -c and values for --set."""
    bombs = {
        "10 MB": b"a = 1\n" + b"# " + b"x" * 10**7,
        "deep": b"a = " + b"[" * 10**5,
        "many tables": b"".join(b"[t%d]\n" % n for n in range(200_000)),
        "a YAML object": b"!!python/object/apply:os.system ['touch " + str(canary).encode() + b"']\n",
        "no text": b"\xff\xfe\x00",
    }
    for name, content in bombs.items():
        path = folder / f"{name.replace(' ', '-')}.toml"
        path.write_bytes(content)
        yield Case(f"a config: {name}", ["train", corpus, "-c", path, "--out", folder / "out", "--dry-run"])
    for name, value in {"deep": "model.n_layer=" + "[" * 5000, "a huge number": "model.n_layer=" + "9" * 4000,
                        "code": f"model.n_layer=__import__('os').system('touch {canary}')"}.items():  # fmt: skip
        yield Case(f"--set: {name}", ["train", corpus, "--set", value, "--out", folder / "out", "--dry-run"])
    yield Case("a config without an end", ["train", corpus, "-c", "/dev/zero", "--out", folder / "out", "--dry-run"])


def corpus_cases(folder: Path, corpus: Path, run: Path, canary: Path) -> Iterator[Case]:
    """Corpora."""
    made = {
        "deep.jsonl": b'{"text": ' + b"[" * 10**6,
        "numbers.jsonl": b'{"text": 3}\n' * 5,
        "half.jsonl.gz": gzip.compress(b'{"text": "hello"}\n' * 1000)[:50],
        "not.parquet": b"PAR1" + bytes(100) + b"PAR1",
        "pickled.parquet": pickle.dumps(attacks(canary)["os.system"]),
        "pickled.arrow": pickle.dumps(attacks(canary)["os.system"]),
        "pickled.bin": pickle.dumps(attacks(canary)["os.system"]),
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
        yield Case(f"a corpus: {name}", ["train", folder / name, "--out", folder / f"{name}-run", "--dry-run"])
    link = folder / "endless.txt"
    with contextlib.suppress(OSError):
        link.symlink_to("/dev/zero")
        limits = ["--set=train.corpus_bytes=1000000", "--set=data.tokenizer.name=byte"]
        yield Case("a corpus without an end", ["data", "inspect", link, *limits])
