"""Shards return the stream that was written, and every damage of a file is noticed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.errors import DataError
from gptcli.tokenizer.framing import DocumentFraming

DOCUMENTS = [list(range(start, start + length)) for start, length in ((0, 5), (7, 1), (20, 64), (3, 100), (9, 2))]


FRAMINGS = [{"eos_id": None}, {"eos_id": 256}, {"eos_id": 256, "end_id": 257}]


def framed(ids: list[int], eos_id: int | None, end_id: int | None = None) -> list[int]:
    return [id for id in (eos_id, *ids, end_id) if id is not None]


def stream_of(documents: list[list[int]], **framing: int | None) -> list[int]:
    return [id for document in documents for id in framed(document, **framing)]


@pytest.mark.parametrize("shard_bytes", [2, 6, 64, 1 << 20])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_stream_comes_back_across_files(write_shards, shard_bytes: int, framing: dict) -> None:
    shards = write_shards(DOCUMENTS, shard_bytes=shard_bytes, **framing)
    stream = stream_of(DOCUMENTS, **framing)
    assert len(shards) == len(stream) and shards.dtype == np.uint16
    assert shards.read(0, len(stream)).tolist() == stream
    for start in range(0, len(stream), 7):
        for stop in (start, start + 1, min(start + 40, len(stream))):
            assert shards.read(start, stop).tolist() == stream[start:stop]
    sizes = [file.size for file in shards.files]
    assert max(sizes) <= shard_bytes and sum(sizes) == 2 * len(stream)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_documents_come_back_without_their_framing(write_shards, framing: dict) -> None:
    shards = write_shards(DOCUMENTS, **framing)
    assert shards.documents == len(DOCUMENTS)
    assert [ids.tolist() for ids, _ in shards.iter_documents()] == DOCUMENTS
    assert [size for _, size in shards.iter_documents()] == [len(ids) for ids in DOCUMENTS]
    assert shards.bytes == sum(map(len, DOCUMENTS))
    starts = [0, *np.cumsum([len(framed(ids, **framing)) for ids in DOCUMENTS])[:-1]]
    assert shards.document_starts.tolist() == starts
    assert shards.index["format"] == (2 if "end_id" in framing else 1)


@pytest.mark.parametrize("framing", [DocumentFraming(None), DocumentFraming(0), DocumentFraming(0, 1)])
def test_splits_joined_are_the_split_of_all_documents(tmp_path: Path, framing: DocumentFraming) -> None:
    """The second part goes on with the last document of the first one; nothing of the framing comes twice."""
    documents, cut = [[5, 6], [7, 8, 9, 10], [], [11]], 2
    parts = [[documents[0], documents[1][:cut]], [documents[1][cut:], *documents[2:]], [[12]]]

    def write(name: str, texts: list[list[int]]) -> TokenShards:
        with ShardWriter(tmp_path / name, 100, framing, "tokenizer", shard_bytes=6) as writer:
            for ids in texts:
                writer.add(np.array(ids, dtype=np.uint32), len(ids), True)
        return TokenShards.open(tmp_path / name)

    whole = write("whole", [*documents, [12]])
    with ShardWriter(tmp_path / "joined", 100, framing, "tokenizer", shard_bytes=6) as writer:
        for number, texts in enumerate(parts):
            writer.append_split(write(str(number), texts), continues=number == 1)
    joined = TokenShards.open(tmp_path / "joined")
    assert joined.fingerprint == whole.fingerprint
    assert whole.targets == len(whole) - 1 - (4 if framing.end_id else 0)


def test_a_document_in_pieces_is_one_document(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a", 100_000, DocumentFraming(0), "tokenizer") as writer:
        for ids, size, starts in (([70_000], 3, True), ([5, 6], 4, False), ([], 1, False), ([8], 2, True)):
            writer.add(np.array(ids, dtype=np.uint32), size, starts)
    shards = TokenShards.open(tmp_path / "a")
    assert shards.dtype == np.uint32
    assert [(ids.tolist(), size) for ids, size in shards.iter_documents()] == [([70_000, 5, 6], 8), ([8], 2)]


@pytest.mark.parametrize(("vocab_size", "name"), [(65_536, "uint16"), (65_537, "uint32")])
def test_the_largest_id_fits_its_type(write_shards, vocab_size: int, name: str) -> None:
    shards = write_shards([[vocab_size - 1, 0]], vocab_size=vocab_size, eos_id=None)
    assert shards.dtype.name == name and shards.read(0, 2).tolist() == [vocab_size - 1, 0]


def test_the_directory_can_be_copied_and_the_fingerprint_is_of_its_content(write_shards, tmp_path: Path) -> None:
    shards = write_shards(DOCUMENTS)
    shutil.copytree(shards.directory, tmp_path / "copy")
    assert TokenShards.open(tmp_path / "copy").fingerprint == shards.fingerprint
    assert write_shards(DOCUMENTS[::-1], name="other").fingerprint != shards.fingerprint


def test_reading_outside_the_stream_is_refused(write_shards) -> None:
    shards = write_shards(DOCUMENTS)
    for start, stop in ((-1, 2), (3, 2), (0, len(shards) + 1)):
        with pytest.raises(IndexError):
            shards.read(start, stop)


def test_an_id_beyond_the_vocabulary_is_refused_when_written_and_when_read(write_shards) -> None:
    with pytest.raises(DataError, match="gave token 300, but its vocabulary has 300"):
        write_shards([[1, 300]])
    shards = write_shards([[1, 2, 3]], name="later")
    path = shards.directory / "tokens-00000.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff")
    with pytest.raises(DataError, match="holds token 65535, but its vocabulary has 300"):
        TokenShards.open(shards.directory).read(0, 4)


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00001.bin", "document-starts.bin", "document-bytes.bin"])
def test_a_file_that_is_cut_missing_or_flipped_is_named(write_shards, name: str) -> None:
    directory = write_shards(DOCUMENTS).directory
    path = directory / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{name} has \d+ bytes instead of \d+; delete the directory"):
        TokenShards.open(directory)
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(DataError, match=f"{name} is damaged"):
        TokenShards.open(directory).verify()
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        TokenShards.open(directory)


def test_a_file_that_is_cut_while_mapped_is_an_error_and_no_crash(write_shards) -> None:
    shards = write_shards([[1] * 200_000], shard_bytes=1 << 20)
    os.truncate(shards.directory / "tokens-00000.bin", 100)
    with pytest.raises(DataError, match=r"tokens-00000\.bin has 100 bytes"):
        shards.read(150_000, 150_010)
    os.truncate(shards.directory / "document-starts.bin", 0)
    with pytest.raises(DataError, match=r"document-starts\.bin has 0 bytes"):
        shards.document(0)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"format": 99}', "null", '{"format": 1, "dtype": "float9"}'])
def test_a_damaged_index_is_an_error(write_shards, index: str) -> None:
    directory = write_shards(DOCUMENTS).directory
    (directory / "index.json").write_text(index)
    with pytest.raises(DataError, match=r"damaged|format 99"):
        TokenShards.open(directory)


def test_an_index_that_points_out_of_its_directory_is_refused(write_shards, tmp_path: Path) -> None:
    directory = write_shards(DOCUMENTS).directory
    index = json.loads((directory / "index.json").read_text())
    (tmp_path / "secret").write_bytes(b"ab")
    index["files"]["../secret"] = {"size": 2, "sha256": ""}
    (directory / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="missing"):
        TokenShards.open(directory)


def test_a_directory_without_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no token shards"):
        TokenShards.open(tmp_path)


def random_examples(count: int, seed: int = 0, longest: int = 20) -> list[tuple[list[int], list[bool]]]:
    """Examples of 2 to `longest` ids with a random mask, which the first token is never in."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest + 1, count)
    return [
        (generator.integers(0, 300, n).tolist(), [False, *(generator.random(n - 1) < 0.5).tolist()]) for n in lengths
    ]


def test_the_loss_mask_comes_back_for_every_stretch(write_examples) -> None:
    examples = random_examples(30)
    shards = write_examples(examples)
    stream = [id for ids, _ in examples for id in ids]
    mask = [bit for _, bits in examples for bit in bits]
    assert shards.index["format"] == 3 and shards.is_masked and shards.targets == sum(mask)
    assert shards.read(0, len(shards)).tolist() == stream and shards.documents == len(examples)
    for start in range(0, len(shards), 3):
        for stop in (start, start + 1, min(start + 29, len(shards))):
            assert shards.read_mask(start, stop).tolist() == mask[start:stop]
    with pytest.raises(IndexError):
        shards.read_mask(0, len(shards) + 1)
    shards.verify()


def test_the_first_token_of_an_example_is_in_no_loss(write_examples) -> None:
    shards = write_examples([([5, 6], [True, True]), ([7, 8, 9], [True, False, True])])
    assert shards.read_mask(0, 5).tolist() == [False, True, False, False, True]


def test_a_split_without_a_mask_has_its_loss_everywhere(write_shards) -> None:
    shards = write_shards(DOCUMENTS)
    assert not shards.is_masked and shards.index["format"] == 1 and shards.read_mask(3, 9).all()


def test_masked_splits_joined_are_the_split_of_all_examples(tmp_path: Path, write_examples) -> None:
    examples, none = random_examples(20), DocumentFraming(None)
    parts = [write_examples(examples[:7], name="a"), write_examples(examples[7:], name="b")]
    with ShardWriter(tmp_path / "joined", 300, none, "tokenizer", 64, masked=True) as writer:
        for part in parts:
            writer.append_split(part, continues=False)
    assert TokenShards.open(tmp_path / "joined").fingerprint == write_examples(examples, name="whole").fingerprint
    with pytest.raises(ValueError, match="mask"), ShardWriter(tmp_path / "other", 300, none, "tokenizer") as writer:
        writer.append_split(parts[0], continues=False)


def test_the_mask_is_part_of_the_fingerprint_and_verified(write_examples) -> None:
    one = write_examples([([5, 6, 7], [False, True, True])], name="one")
    other = write_examples([([5, 6, 7], [False, False, True])], name="other")
    assert one.fingerprint != other.fingerprint
    path = one.directory / "loss-mask.bin"
    path.write_bytes(b"\x02")
    with pytest.raises(DataError, match=r"loss-mask\.bin is damaged"):
        TokenShards.open(one.directory).verify()
    path.write_bytes(b"\x02\x00")
    with pytest.raises(DataError, match=r"loss-mask\.bin has 2 bytes instead of 1"):
        TokenShards.open(one.directory)
