"""The probable encoding of a text that is not UTF-8."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gptcli.data.encodings import LIKELY, is_damaged_utf8, probable_encoding, text_encoding
from gptcli.data.filetypes import not_text_error

FRENCH = "Le café était fermé à l’été ; « Où êtes-vous ? » demanda-t-il. Ça va très bien, répondit-elle.\n" * 5
TEXTS = {
    "cp1252": FRENCH,
    "cp1250": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności. Žluťoučký kůň úpěl.\n" * 5,
    "cp1251": "Все люди рождаются свободными и равными в своем достоинстве и правах.\n" * 5,
    "koi8_r": "Все люди рождаются свободными и равными в своем достоинстве и правах.\n" * 5,
    "cp437": "Die Größe der Straße überrascht: Ärger, Öl und Übermut.\n" * 5,
    "gb18030": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。\n" * 5,
    "big5": "人人生而自由,在尊嚴和權利上一律平等。他們賦有理性和良心。\n" * 5,
    "cp932": "すべての人間は、生まれながらにして自由であり、尊厳と権利とについて平等である。\n" * 5,
    "euc_jp": "すべての人間は、生まれながらにして自由であり、尊厳と権利とについて平等である。\n" * 5,
    "cp949": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n" * 5,
    "utf-16-le": "人人生而自由，在尊严和权利上一律平等。\n" * 5,
}


@pytest.mark.parametrize("encoding", list(TEXTS))
def test_the_encoding_of_a_text_is_guessed(encoding: str) -> None:
    kind = probable_encoding(TEXTS[encoding].encode(encoding))
    assert kind is not None and kind.encoding == encoding


@pytest.mark.parametrize("word", ["café", "naïve", "José", "smörgåsbord", "déjà vu", "20 °C", "5 €", "“quoted”"])
def test_one_accented_word_in_ascii_is_not_taken_for_cyrillic(word: str) -> None:
    lines = (
        f"Sentence number {n} is from the owl of house {n * 7 % 113}, and said: hello {n * n}.\n" for n in range(200)
    )
    kind = probable_encoding(f"{''.join(lines)}{word}".encode("cp1252"))
    assert kind is not None and kind.encoding == "cp1252"


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp"])
def test_short_japanese_sentences_with_numbers_are_recognised(encoding: str) -> None:
    kind = probable_encoding("\n".join(f"これは文章{n}です。猫が{n * n}匹いる。" for n in range(200)).encode(encoding))
    assert kind is not None and kind.encoding == encoding


@pytest.mark.parametrize("encoding", list(LIKELY))
def test_python_and_iconv_read_each_suggested_encoding_alike(tmp_path: Path, encoding: str) -> None:
    text = "plain ASCII, and more\n" + TEXTS.get(encoding, "")
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    command = not_text_error("a.txt", LIKELY[encoding]).remedy.partition("convert it to text: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "a-text.txt").read_text(encoding="utf-8") == text


def test_damaged_utf8_is_not_taken_for_another_encoding() -> None:
    assert is_damaged_utf8(FRENCH.encode() + b"\xff" + FRENCH.encode())
    assert not is_damaged_utf8(FRENCH.encode("cp1252"))
    assert not is_damaged_utf8(TEXTS["gb18030"].encode("gb18030"))


def test_names_of_encodings_are_those_of_python() -> None:
    assert [text_encoding(name) for name in ("UTF8", "latin1", "windows-1252")] == ["utf-8", "iso8859-1", "cp1252"]
    for name in ("nonsense", "base64", "rot13", "idna", "", "utf-8\0"):
        with pytest.raises(ValueError, match=r"text encoding of Python|encoding of text files"):
            text_encoding(name)
