"""Large corpora: any parts and any number of processes give the same tokens, and finished work is not repeated."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gptcli.data import indexing, prepare, sample, scan, stages
from gptcli.data.config import DataConfig
from gptcli.data.prepare import PreparedCorpus, prepare_corpus, scan_corpus
from gptcli.data.sketch import SKETCH, TextSketch
from gptcli.data.worker_pool import WorkerConfig, in_order
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError, OutOfMemoryError, StorageError
from own_peak import PEAK

WHOLE = WorkerConfig(workers=1, section_bytes=1 << 40)
"""All in one part, as a small corpus is."""
IN_PARTS = WorkerConfig(workers=1, section_bytes=2000)
BPE = {"name": "bpe", "vocab_size": 400}


def texts(seed: int, count: int, longest: int = 300) -> list[str]:
    generator = random.Random(seed)
    made = [
        "".join(
            generator.choice(["a", "bc ", "dé", "日本", "𝄞", " ", "\n"]) for _ in range(generator.randrange(longest))
        )
        for _ in range(count)
    ]
    return [generator.choice(made) if generator.random() < 0.2 else text for text in made]


def rows(some: list[str], ascii: bool = True) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=ascii) + "\n" for text in some)


def corpus(folder: Path, kind: str) -> str:
    """Write a corpus of some 30 kB, with duplicates across its files."""
    folder.mkdir()
    if kind == "rows":
        (folder / "a.jsonl").write_text(rows(texts(0, 60)) + "\n" + rows(texts(1, 20), ascii=False))
        (folder / "b.jsonl").write_text(rows(texts(0, 30)), newline="\r\n")
    elif kind == "files":
        for number, text in enumerate(texts(2, 150)):
            (folder / f"{number:03}.txt").write_text(text, newline="")
    elif kind == "separated":
        (folder / "a.txt").write_text("\n\n".join(texts(3, 100)), newline="")
    elif kind == "one document":
        (folder / "a.txt").write_text("\ufeff" + " ".join(texts(4, 100)), newline="")
    elif kind == "compressed":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(rows(texts(5, 60)).encode()))
        (folder / "b.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts(6, 60)), newline="")
    elif kind == "columns":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"text": texts(7, 200)}), folder / "a.parquet", row_group_size=7)
    elif kind == "left out":
        (folder / "a.jsonl").write_text(rows(texts(8, 60)))
        (folder / "bad.jsonl").write_text(rows(texts(9, 90)) + "no row\n" + rows(texts(10, 90)))
        (folder / "latin.txt").write_bytes(b"x" * 5000 + " größe, Übermut und Ärger.\n".encode("latin-1") * 20)
        (folder / "picture.png").write_bytes(b"\x89PNG")
        (folder / "z.txt").write_text("é".join(texts(11, 40)))
        with zipfile.ZipFile(folder / "z.zip", "w") as archive:
            archive.writestr("b.jsonl", rows(texts(12, 60)))
            archive.writestr("noise.txt", b"\xff\xd8\xff")
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60, time.time() - 60))
    return str(folder)


def prepared(source: str, cache: Path, workers: WorkerConfig, **settings: object) -> PreparedCorpus:
    config = DataConfig.model_validate({"tokenizer": BPE} | settings)
    workspace = Workspace(config, cache, 0, workers)
    return prepare_corpus(scan_corpus([source], workspace), workspace)


def settings_of(kind: str) -> dict[str, str]:
    return {"document_separator": "\n\n"} if kind == "separated" else {}


KINDS = ["rows", "files", "separated", "one document", "compressed", "columns", "left out"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "split"), [*((kind, "document") for kind in KINDS), ("rows", "tail"), ("one document", "tail")]
)
def test_a_corpus_in_parts_gives_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, split: str
) -> None:
    monkeypatch.setattr("gptcli.data.corpus.PIECE_CHARACTERS", 700)
    source, settings = corpus(tmp_path / "corpus", kind), settings_of(kind) | {"split": split}
    whole = prepared(source, tmp_path / "one", WHOLE, **settings)
    parts = prepared(source, tmp_path / "two", IN_PARTS, **settings)
    assert parts.report == whole.report and parts.tokenizer.fingerprint == whole.tokenizer.fingerprint
    assert (parts.train.fingerprint, parts.val.fingerprint) == (whole.train.fingerprint, whole.val.fingerprint)
    sketches = [TextSketch.open(data.directory / SKETCH) for data in (whole, parts)]
    assert np.array_equal(sketches[0].hashes, sketches[1].hashes) and len(sketches[0].hashes)
    assert not list((tmp_path / "two").rglob("*.work")), "what is finished is cleared away once the whole is there"
    for shards in (parts.train, parts.val):
        shards.verify()
    config = DataConfig.model_validate({"tokenizer": BPE} | settings)
    again = scan_corpus([source], Workspace(config, tmp_path / "two", 0, IN_PARTS))
    first = scan_corpus([source], Workspace(config, tmp_path / "one", 0, WHOLE))
    assert list(again.pieces()) == list(first.pieces()), "also read by one process from the first document to the last"
    if kind != "compressed":
        assert len(again.jobs(2000, tmp_path)) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "left out"])
def test_the_number_of_processes_changes_nothing(tmp_path: Path, kind: str) -> None:
    source = corpus(tmp_path / "corpus", kind)
    alone = prepared(source, tmp_path / "one", IN_PARTS)
    together = prepared(source, tmp_path / "two", WorkerConfig(workers=2, section_bytes=2000))
    assert together.report == alone.report
    names = sorted(str(path.relative_to(alone.directory)) for path in alone.directory.rglob("*") if path.is_file())
    for name in names:
        assert (alone.directory / name).read_bytes() == (together.directory / name).read_bytes()


def test_a_separator_that_overlaps_itself_parts_the_same_documents_in_parts(tmp_path: Path) -> None:
    generator = random.Random(1)
    path = tmp_path / "a.txt"
    path.write_text("".join(generator.choice(["x", "\n", "\n\n", "yz"]) for _ in range(3000)), newline="")
    config = DataConfig(document_separator="\n\n")
    whole = scan_corpus([str(path)], Workspace(config, tmp_path / "one", 0, WHOLE))
    parts = scan_corpus([str(path)], Workspace(config, tmp_path / "two", 0, WorkerConfig(1, 50)))
    assert parts.fingerprint == whole.fingerprint and parts.report() == whole.report()
    assert len(parts.sections) > 30


def test_a_sample_is_the_same_in_any_parts_and_of_the_size_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "SAMPLE_BYTES", 20_000)
    monkeypatch.setattr(sample.drawn_buckets, "__defaults__", (20_000,))
    path = tmp_path / "a.jsonl"
    path.write_text(rows(texts(9, 2000, longest=60)))
    one = prepared(str(path), tmp_path / "one", WHOLE)
    two = prepared(str(path), tmp_path / "two", WorkerConfig(1, 10_000))
    assert one.tokenizer.fingerprint == two.tokenizer.fingerprint and one.report == two.report
    drawn = one.report["tokenizer_sample"]
    assert drawn["of_bytes"] == one.train.bytes and drawn["of_documents"] == one.train.documents
    assert 18_000 < drawn["bytes"] <= 20_000 and drawn["documents"] < one.train.documents
    again = prepared(str(path), tmp_path / "two", WorkerConfig(1, 10_000))
    assert again.from_cache and again.report == two.report


def test_of_a_long_document_a_sample_takes_pieces_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptcli.data.corpus.PIECE_CHARACTERS", 100)
    monkeypatch.setattr(sample, "LONG_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_text(" ".join(f"{number:05}" for number in range(10_000)))
    found = scan_corpus([str(path)], Workspace(DataConfig(), tmp_path / "cache", 0, WorkerConfig(1, 5000)))
    drawn = sample.drawn_buckets(found.records, found.assignment, 12_000)
    pieces = [piece.text for part in found.reader.parts(5000) for piece in sample.drawn_pieces(part, drawn)]
    numbers = np.array([int(word) for piece in pieces for word in piece.split()])
    assert 8_000 < sum(map(len, pieces)) < 16_000
    assert np.histogram(numbers, 6, (0, 9000))[0].min() > 100, "a sixth of the text gives about 330 of 2000 words"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["index", "count", "draw", "encode"])
def test_what_was_finished_before_a_stop_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    source = corpus(tmp_path / "corpus", "rows")
    monkeypatch.setattr(prepare, "SAMPLE_BYTES", 5_000)
    whole = prepared(source, tmp_path / "one", IN_PARTS)
    calls: list[Path] = []
    original = getattr(stages, stage)

    def counted(job):
        folder = job.folder if hasattr(job, "folder") else job[0].folder
        done = (folder / stages.RESULT).exists()
        result = original(job)
        if not done:
            calls.append(folder)
        if len(calls) == 4 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return result

    stopped: list[bool] = []
    for module in (indexing, scan, prepare):
        if hasattr(module, stage):
            monkeypatch.setattr(module, stage, counted)
    with pytest.raises(KeyboardInterrupt):
        prepared(source, tmp_path / "two", IN_PARTS)
    damaged = calls[1]
    file = next(path for path in sorted(damaged.rglob("*")) if path.is_file() and path.name != stages.RESULT)
    file.write_bytes(file.read_bytes() + b"x")
    data = prepared(source, tmp_path / "two", IN_PARTS)
    data.train.verify()
    assert data.train.fingerprint == whole.train.fingerprint and data.report == whole.report
    assert calls.count(damaged) == 1 and len(calls) == len(set(calls)), "all others were done once"
    assert not list((tmp_path / "two").rglob("*.work")) and not list((tmp_path / "two").rglob("*.tmp-*"))


PREPARE = """
    import os, signal, sys
    from pathlib import Path
    from gptcli.data import stages, worker_pool
    from gptcli.data.config import DataConfig
    from gptcli.data.worker_pool import WorkerConfig
    from gptcli.data.workspace import Workspace
    from gptcli.data.prepare import prepare_corpus, scan_corpus
    from gptcli.errors import GptcliError
    if __name__ == "__main__":
        workers = WorkerConfig(2, int(sys.argv[3]))
        workspace = Workspace(DataConfig(tokenizer="byte"), Path(sys.argv[2]), 0, workers)
        try:
            with worker_pool.stop_by_signal():
                scan = scan_corpus([sys.argv[1]], workspace)
                print("scanned", flush=True)
                prepare_corpus(scan, workspace)
        except GptcliError as error:
            print(type(error).__name__, error, flush=True)
            sys.exit(error.exit_code)
        print("done", flush=True)
"""


def start(source: str, cache: Path, section_bytes: int = 40_000) -> subprocess.Popen:
    """Start a preparation by two processes, as the leader of a process group."""
    script = cache.with_suffix(".py")
    script.write_text(textwrap.dedent(PREPARE))
    command = [sys.executable, str(script), source, str(cache), str(section_bytes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def members(group: int) -> list[int]:
    """Return the living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for_none(group: int) -> None:
    deadline = time.monotonic() + 20
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(group), "processes are left"


def long_corpus(tmp_path: Path) -> str:
    path = tmp_path / "a.jsonl"
    path.write_text(rows(texts(11, 3000, longest=400)))
    os.utime(path, (time.time() - 60, time.time() - 60))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_preparation_leaves_no_process_and_is_gone_on_with(tmp_path: Path, sent: int) -> None:
    source, cache = long_corpus(tmp_path), tmp_path / "cache"
    process = start(source, cache)
    assert process.stdout.readline() == "scanned\n"
    while not list(cache.glob("tokens/*.work/*/0000[3-9]")):
        time.sleep(0.05)
    os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
    words, _ = process.communicate(timeout=60)
    if sent != signal.SIGKILL:
        assert words.startswith(f"Stopped stopped by {signal.Signals(sent).name}") and words.count("\n") == 1
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent)
    wait_for_none(process.pid)
    assert not [
        path
        for path in (cache / "tokens").iterdir()
        if path.suffix not in (".work", ".lock") and ".tmp-" not in path.name
    ]
    kept = {path: path.stat().st_mtime_ns for path in cache.glob(f"tokens/*.work/*/*/{stages.RESULT}")}
    assert kept
    process = start(source, cache)
    while process.poll() is None and list(cache.glob("tokens/*.work")):
        assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path.exists())
        time.sleep(0.05)
    assert process.communicate(timeout=60)[0] == "scanned\ndone\n"
    data = prepared(source, cache, WorkerConfig(1), tokenizer="byte")
    whole = prepared(source, tmp_path / "one", WHOLE, tokenizer="byte")
    assert data.from_cache and data.train.fingerprint == whole.train.fingerprint
    data.train.verify()


@pytest.mark.slow
def test_a_killed_process_of_several_is_one_line_and_ends_them_all(tmp_path: Path) -> None:
    source, cache = long_corpus(tmp_path), tmp_path / "cache"
    process = start(source, cache)
    assert process.stdout.readline() == "scanned\n"
    while not list(cache.glob("tokens/*.work/*/0000[3-9]")):
        time.sleep(0.05)
    workers = [pid for pid in members(process.pid) if pid != process.pid]
    os.kill(max(workers), signal.SIGKILL)
    words, _ = process.communicate(timeout=60)
    assert words.startswith("OutOfMemoryError a process that prepares the corpus was killed"), words
    assert process.returncode == 7
    wait_for_none(process.pid)
    assert start(source, cache).communicate(timeout=60)[0] == "scanned\ndone\n"


def fail_at_three(number: int) -> int:
    if number == 3:
        raise StorageError("the disk is full", "free some space")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_results_come_in_order_until_the_first_error(tmp_path: Path) -> None:
    assert list(in_order(abs, range(-20, 0), 2)) == list(range(20, 0, -1))
    for function, error in ((fail_at_three, StorageError), (die_at_three, OutOfMemoryError)):
        found = []
        with pytest.raises(error):
            for number in in_order(function, list(range(20)), 2):
                found.append(number)
        assert found == list(range(len(found))) and len(found) <= 3


def test_an_unreadable_row_in_the_middle_names_its_line_and_keeps_what_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = rows(texts(12, 300)).splitlines(keepends=True)
    path.write_text("".join([*lines[:200], "no json\n", *lines[200:]]))
    with pytest.raises(DataError, match=r"line 201 of .*a\.jsonl is not JSON"):
        prepared(str(path), tmp_path / "cache", IN_PARTS)
    whole = (tmp_path / "cache" / "scans").glob("*.work/*/*")
    assert len(list(whole)) > 5
    assert {path.suffix for path in (tmp_path / "cache" / "scans").iterdir()} == {".work", ".lock"}


def test_a_bad_byte_in_the_middle_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"word and word <>" * 1000 + b"\xff" + b"word and word <>" * 1000)
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8 at byte 16,000"):
        scan_corpus([str(path)], Workspace(DataConfig(document_separator="<>"), tmp_path / "cache", 0, IN_PARTS))


ENCODE = """
    import sys
    from pathlib import Path
    import numpy
    from gptcli.data.sketch import SketchBuilder
    from gptcli.data.split_reader import SplitPiece
    from gptcli.data.stages import ShardEncoder
    from gptcli.data.worker_pool import resident_bytes
    from gptcli.tokenizer.config import BpeTokenizerConfig
    from gptcli.tokenizer.train import build_tokenizer

    def words(seed):
        letters = numpy.random.default_rng(seed).integers(97, 107, (1 << 16, 12), dtype=numpy.uint8)
        letters[:, -1] = 32
        return letters.tobytes().decode()

    def pieces(count):
        return (SplitPiece(text, len(text), False, True) for text in map(words, range(count)))

    tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter([words(0)]))
    builder = SketchBuilder(1 << 24)
    ShardEncoder(tokenizer, builder, lambda _: None).encode_into(Path(sys.argv[1], "first"), pieces(4))
    before, memory = peak(), resident_bytes() + int(sys.argv[2])
    ShardEncoder(tokenizer, builder, lambda _: None, memory).encode_into(Path(sys.argv[1], "then"), pieces(24))
    print((peak() - before) // 1024)
"""


def growth(folder: Path, allowance: int) -> int:
    """Return the growth in MiB of the peak memory of a process that encodes 19 MB of words which do not repeat."""
    command = [sys.executable, "-c", PEAK + textwrap.dedent(ENCODE), str(folder), str(allowance)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_a_process_takes_no_more_memory_than_its_limit(tmp_path: Path) -> None:
    limited, free = growth(tmp_path / "limited", 20 << 20), growth(tmp_path / "free", 1 << 40)
    assert limited < 100 and free > 1.5 * limited, (limited, free)
