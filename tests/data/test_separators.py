"""Separators of documents: as typed in a shell, across chunks and line ends, and those that nobody declared."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptcli.data.separators import Separator, Undeclared, section_ends, separate, undeclared

SEPARATORS = (r"\n\n", r"\n---\n", "aa", "a\r\na", "<|x|>", "é→", r"\\n", r"a\tb")


def reference(text: str, separator: str) -> list[str]:
    """Cutting a whole text from the left to the right, any line end of the separator being "\\n" or "\\r\\n"."""
    return re.split(re.escape(separator).replace("\\\n", "\r?\n"), text)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"\n\n\n", "\n\n\n"),
        ("\n\n", "\n\n"),
        (r"\t", "\t"),
        (r"\r", "\r"),
        (r"\\n", r"\n"),
        (r"\s\d", r"\s\d"),
        ("a\r\nb", "a\nb"),
    ],
)
def test_escapes_mean_what_they_mean_in_python(typed: str, text: str) -> None:
    assert Separator(typed).text == text


@given(st.text("a\n\r-é→<|x>\\nt\tb", max_size=60), st.sampled_from(SEPARATORS), st.integers(1, 9))
def test_documents_do_not_depend_on_where_chunks_end(text: str, typed: str, chunk: int) -> None:
    separator = Separator(typed)
    chunks = (text[start : start + chunk] for start in range(0, len(text), chunk))
    documents = [""]
    for piece, is_last in separate(chunks, separator):
        documents[-1] += piece
        if is_last:
            documents.append("")
    assert documents == [*reference(text, separator.text), ""]


@given(st.text("a\n\r-é→", max_size=80), st.sampled_from(SEPARATORS), st.integers(0, 20))
def test_sections_hold_the_documents_of_the_whole(text: str, typed: str, section_bytes: int) -> None:
    separator, content = Separator(typed), text.encode()
    ends = list(section_ends(content, separator, section_bytes))
    starts, stops = [0, *(end for _, end in ends)], [*(start for start, _ in ends), len(content)]
    sections = [content[start:stop].decode() for start, stop in zip(starts, stops, strict=True)]
    assert [document for section in sections for document in separator.split(section)] == separator.split(text)
    assert all(stop - start >= section_bytes for start, stop in zip(starts[:-1], stops[:-1], strict=True))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("mark", "typed"),
    [
        ("<|endoftext|>", "<|endoftext|>"),
        ("[EOS]\n", "[EOS]"),
        ("</s>\n<s>", r"</s>\n<s>"),
        ("</s>", "</s>"),
        ("<s>", "<s>"),
        ("\n---\n", r"\n---\n"),
        ("\n* * *\n", r"\n* * *\n"),
        ("\n%\n", r"\n%\n"),
    ],
)
def test_what_nobody_declared_is_found_and_works_when_typed(mark: str, typed: str, end: str) -> None:
    text = mark.join(f"story {number}" for number in range(20)).replace("\n", end)
    found = undeclared(text, is_prose=True)
    assert found == Undeclared(typed, 19)
    assert [part.strip() for part in Separator(found.typed).split(text)] == [f"story {number}" for number in range(20)]


@pytest.mark.parametrize(
    "text",
    [
        'if token == "<|endoftext|>" or token == `<|endoftext|>`:\n' * 30,
        "<s>crossed</s> out, <s>twice</s>\n" * 30,
        "a -- b --- c\n" * 30,
        "50 %\n" * 30,
        "A story.<|endoftext|>Another.<|endoftext|>",
    ],
)
def test_what_separates_nothing_is_not_suggested(text: str) -> None:
    assert undeclared(text, is_prose=True) is None


def test_lines_of_markup_are_not_suggested() -> None:
    assert undeclared("title\n---\ntext\n" * 30, is_prose=False) is None


def test_a_separator_that_arrives_in_parts_keeps_little_in_memory() -> None:
    chunks = ("ab" * 50_000 for _ in range(100))
    assert max(len(stretch) for stretch, _ in separate(chunks, Separator("abc"))) <= 100_002
