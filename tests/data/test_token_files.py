"""Tokens that other programs wrote: read in place, they are the stream that the text itself would have given."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from data_files import write_rows
from gptcli.data.batches import Batches
from gptcli.data.config import DataConfig
from gptcli.data.corpus import corpus_documents
from gptcli.data.inspect import inspect
from gptcli.data.prepare import PreparedCorpus, prepare_corpus, scan_corpus
from gptcli.data.shards import TokenShards
from gptcli.data.token_mix import TokenMix
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError, GptcliError
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer
from special_tokens import with_specials

TEXTS = [f"Document {n} of größe {n * n}, and “no more”. " * (1 + n % 4) for n in range(40)]
MAGIC = {"<u2": (20240520, 1), "<u4": (20240801, 7)}


class Corpus(NamedTuple):
    """A tokenizer in a folder, and the texts that were prepared with it."""

    tokenizer: Tokenizer
    folder: Path
    prepared: PreparedCorpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter(TEXTS))
    tokenizer.save(folder)
    for name, texts in (("train", TEXTS[:32]), ("val", TEXTS[32:])):
        write_rows(folder / f"{name}.jsonl", texts)
    config = DataConfig(val=str(folder / "val.jsonl"), tokenizer={"name": "file", "path": str(folder)})
    scan = scan_corpus([str(folder / "train.jsonl")], Workspace(config, folder / "cache"))
    return Corpus(tokenizer, folder, prepare_corpus(scan, Workspace(config, folder / "cache")))


def stream(shards: TokenShards) -> np.ndarray:
    return shards.read(0, len(shards))


def open_train(directory: Path) -> TokenShards:
    return TokenShards.open(directory / "train", elsewhere=True)


def write(path: Path, ids: np.ndarray, kind: str) -> Path:
    """Write tokens in the form of nanoGPT (`raw`) or llm.c (by the type of the tokens)."""
    if kind == "raw":
        path.write_bytes(ids.astype("<u2").tobytes())
        return path
    header = np.zeros(256, dtype="<i4")
    header[:3] = (*MAGIC[kind], len(ids))
    path.write_bytes(header.tobytes() + ids.astype(kind).tobytes())
    return path


def prepare(sources: list[Path | str], folder: Path, tokenizer: Path | None, **data: Any) -> PreparedCorpus:
    named = {} if tokenizer is None else {"tokenizer": {"name": "file", "path": str(tokenizer)}}
    config = DataConfig.model_validate(named | data)
    scan = scan_corpus([str(source) for source in sources], Workspace(config, folder / "cache"))
    return prepare_corpus(scan, Workspace(config, folder))


@pytest.mark.parametrize("kind", ["raw", "<u2", "<u4"])
def test_the_stream_and_its_documents_are_those_of_the_text(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    for part in ("train", "val"):
        write(tmp_path / f"{part}.bin", stream(getattr(corpus.prepared, part)), kind)
    found = prepare([tmp_path / "train.bin"], tmp_path, corpus.folder)
    for part in ("train", "val"):
        ours, expected = getattr(found, part), getattr(corpus.prepared, part)
        assert stream(ours).tolist() == stream(expected).tolist()
        assert ours.document_starts.tolist() == expected.document_starts.tolist()
        assert [size for _, size in ours.iter_documents()] == [size for _, size in expected.iter_documents()]
        assert (ours.bytes, ours.vocab_size, ours.framing) == (expected.bytes, expected.vocab_size, expected.framing)
        assert ours.tokenizer_fingerprint == expected.tokenizer_fingerprint
        for key in ("documents", "bytes", "characters"):
            assert found.report[part][key] == corpus.prepared.report[part][key]
    several = (
        Batches(TokenMix.of_one(shards), 16, 1, "document").sequences(range(5))
        for shards in (found.train, corpus.prepared.train)
    )
    for ours, expected in zip(*(batch[:3] for batch in several), strict=True):
        assert ours.tolist() == expected.tolist()


def test_the_training_tokens_stay_where_they_are_and_the_validation_tokens_travel(
    corpus: Corpus, tmp_path: Path
) -> None:
    path = write(tmp_path / "train.bin", stream(corpus.prepared.train), "raw")
    found = prepare([path], tmp_path, corpus.folder)
    assert sum(file.stat().st_size for file in found.train.directory.iterdir()) < path.stat().st_size
    assert len(found.train) + len(found.val) == len(corpus.prepared.train)
    assert np.concatenate((stream(found.train), stream(found.val))).tolist() == stream(corpus.prepared.train).tolist()
    TokenShards.open(found.val.directory).verify()
    with pytest.raises(DataError, match="names files outside"):
        TokenShards.open(found.train.directory)
    assert "% of the tokens" in found.report["split_rule"]


def test_validation_uses_the_requested_part(corpus: Corpus, tmp_path: Path) -> None:
    path = write(tmp_path / "tokens.bin", stream(corpus.prepared.train), "<u2")
    found = prepare([path], tmp_path, corpus.folder, val_fraction=0.25)
    assert len(found.val) == pytest.approx(len(corpus.prepared.train) / 4, abs=1)
    default = prepare([path], tmp_path, corpus.folder)
    assert default.val.bytes == pytest.approx(0.1 * (default.val.bytes + default.train.bytes), rel=0.05)


def test_several_shards_are_one_stream_and_those_for_validation_are_found(corpus: Corpus, tmp_path: Path) -> None:
    ids = stream(corpus.prepared.train)
    for number, part in enumerate(np.array_split(ids, 3), start=1):
        write(tmp_path / f"web_train_{number:06d}.bin", part, "<u2")
    write(tmp_path / "web_val_000000.bin", stream(corpus.prepared.val), "<u2")
    for pattern in ("web_train_*.bin", "*.bin"):
        found = prepare([tmp_path / pattern], tmp_path, corpus.folder)
        assert stream(found.train).tolist() == ids.tolist()
        assert stream(found.val).tolist() == stream(corpus.prepared.val).tolist()
        assert found.train.document_starts.tolist() == corpus.prepared.train.document_starts.tolist()
    other = prepare(
        [tmp_path / "web_train_000001.bin"], tmp_path, corpus.folder, val=str(tmp_path / "web_train_000002.bin")
    )
    assert len(other.train) + len(other.val) < len(ids)


def test_documents_may_lie_across_chunks_and_begin_without_their_token(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nanoGPT writes it, with the end-of-text token after each document."""
    monkeypatch.setattr("gptcli.data.token_files.CHUNK_TOKENS", 7)
    ids = np.append(stream(corpus.prepared.train)[1:], corpus.tokenizer.eos_id)
    found = prepare([write(tmp_path / "train.bin", ids, "raw")], tmp_path, corpus.folder, val_fraction=0.01)
    starts = corpus.prepared.train.document_starts[1:].astype(np.int64) - 1
    assert found.train.document_starts[1:].tolist() == starts[: found.train.documents - 1].tolist()
    assert [found.train.document_bytes(number) for number in range(30)] == list(map(len, map(str.encode, TEXTS[:30])))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [("<s>", "</s>", (256, 257)), ("<s>", None, (256, None)), (None, "</s>", (257, None)), (None, None, (None, None))],
)
def test_documents_are_framed_as_the_file_shows(
    tmp_path: Path, before: str | None, after: str | None, expected: tuple
) -> None:
    """Whatever tokens the tokenizer has for it: the validation documents of the run begin with what training saw."""
    backend = with_specials("<s>", "</s>")
    (tmp_path / "tokenizer").mkdir()
    backend.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    ids = [[backend.token_to_id(name)] if name else [] for name in (before, after)]
    texts = [backend.encode(text).ids for text in TEXTS]
    path = write(tmp_path / "train.bin", np.array([id for text in texts for id in (*ids[0], *text, *ids[1])]), "raw")
    found = prepare([path], tmp_path, tmp_path / "tokenizer")
    for shards in (found.train, found.val, open_train(found.directory)):
        assert (shards.framing.begin_id, shards.framing.end_id) == expected
    assert found.tokenizer.framing == found.train.framing
    again = prepare([path], tmp_path, tmp_path / "tokenizer")
    assert again.tokenizer.framing == found.tokenizer.framing
    if before or after:
        assert [ids.tolist() for ids, _ in found.train.iter_documents()][:30] == texts[:30]


def test_moved_tokens_have_one_fingerprint_and_are_not_read_twice(corpus: Corpus, tmp_path: Path) -> None:
    import os

    fingerprints = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        path = write(tmp_path / place / "train.bin", stream(corpus.prepared.train), "raw")
        os.utime(path, (1e9, 1e9))
        first, again = prepare([path], tmp_path, corpus.folder), prepare([path], tmp_path, corpus.folder)
        assert (first.from_cache, again.from_cache) == (False, True)
        assert open_train(first.directory).fingerprint == first.train.fingerprint == again.train.fingerprint
        fingerprints.append(first.train.fingerprint)
    assert fingerprints[0] == fingerprints[1] != corpus.prepared.train.fingerprint


def test_a_file_that_changes_is_noticed(corpus: Corpus, tmp_path: Path) -> None:
    path = write(tmp_path / "train.bin", stream(corpus.prepared.train), "raw")
    found = prepare([path], tmp_path, corpus.folder)
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train\.bin is damaged: its SHA-256"):
        found.train.verify()
    path.write_bytes(content[:-2])
    with pytest.raises(DataError, match=r"train\.bin has .* bytes instead of"):
        found.train.read(0, 5)


def test_inspection_shows_the_text_of_the_tokens(corpus: Corpus, tmp_path: Path) -> None:
    from gptcli.data.config import DataSettings

    path = write(tmp_path / "train.bin", stream(corpus.prepared.train), "<u4")
    settings = DataSettings(data={"corpus": (str(path),), "tokenizer": {"name": "file", "path": str(corpus.folder)}})
    train, val = inspect(settings, tmp_path / "cache", windows=2)
    assert "“no more”" in train["windows"][0]["text"]
    assert train["tokens"] + val["tokens"] == len(corpus.prepared.train)
    assert (train["dtype"], train["vocab_size"]) == ("uint32", corpus.tokenizer.vocab_size)


def test_a_tokenizer_must_be_named_and_a_pickle_is_not_opened(corpus: Corpus, tmp_path: Path) -> None:
    path = write(tmp_path / "train.bin", stream(corpus.prepared.train), "raw")
    with pytest.raises(DataError, match="holds tokens and not their tokenizer; name the one that made them"):
        prepare([path], tmp_path, None)
    (tmp_path / "meta.pkl").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(DataError, match=r"meta\.pkl is a pickle"):
        prepare([path], tmp_path, None)


def broken(name: str, ids: np.ndarray, path: Path) -> None:
    write(path, ids, "<u2")
    content = path.read_bytes()
    header = np.frombuffer(content[:1024], dtype="<i4").copy()
    match name:
        case "short":
            path.write_bytes(content[:-2])
        case "long":
            path.write_bytes(content + b"ab")
        case "version":
            header[1] = 9
            path.write_bytes(header.tobytes() + content[1024:])
        case "examples":
            header[0] = 20240522
            path.write_bytes(header.tobytes() + content[1024:])
        case "odd":
            path.write_bytes(content[1024:] + b"a")
        case "empty":
            path.write_bytes(b"")
        case "foreign":
            write(path, np.append(ids, 40_000), "raw")
        case "negative":
            header[2] = -5
            path.write_bytes(header.tobytes() + content[1024:])
        case "few":
            write(path, ids[:3], "raw")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", r"tokens\.bin has [\d,]+ bytes, but its header declares [\d,]+"),
        ("long", r"tokens\.bin has [\d,]+ bytes, but its header declares [\d,]+"),
        ("version", r"header of version 9"),
        ("examples", r"questions with answers"),
        ("odd", r"not a whole number of 16-bit tokens"),
        ("empty", r"tokens\.bin has 0 bytes"),
        ("foreign", r"holds token 40000 at position [\d,]+, and the tokenizer has"),
        ("negative", r"the header of .*tokens\.bin declares -5 tokens"),
        ("few", r"holds 3 tokens"),
    ],
)
def test_an_error_names_a_file_that_holds_no_tokens(corpus: Corpus, tmp_path: Path, name: str, message: str) -> None:
    broken(name, stream(corpus.prepared.train), tmp_path / "tokens.bin")
    with pytest.raises(DataError, match=message):
        prepare([tmp_path / "tokens.bin"], tmp_path, corpus.folder)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_link_to_itself_in_the_place_of_tokens_is_an_error_of_ours(corpus: Corpus, tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.bin", stream(corpus.prepared.train), "raw")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(name)
    with pytest.raises(GptcliError, match=name):
        prepare([tmp_path / "train.bin"], tmp_path, corpus.folder)


def test_texts_and_tokens_are_not_mixed(corpus: Corpus, tmp_path: Path) -> None:
    path = write(tmp_path / "train.bin", stream(corpus.prepared.train), "raw")
    text = corpus.folder / "train.jsonl"
    with pytest.raises(DataError, match="cannot be one corpus"):
        prepare([path, text], tmp_path, corpus.folder)
    with pytest.raises(DataError, match="cannot be one corpus"):
        prepare([path], tmp_path, corpus.folder, val=str(text))
    with pytest.raises(DataError, match="holds tokens by its ending"):
        list(corpus_documents([str(path)], DataConfig()))
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepare([path], tmp_path, corpus.folder, val=str(path))
