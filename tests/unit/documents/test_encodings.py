"""Texts in old encodings are read as they were written, or refused."""

from __future__ import annotations

import pytest
from file_support import Writer, read_file

from llmstack.documents.readers import check_encoding
from llmstack.errors import ValidationError

TEXTS = {
    "ja": "人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "tw": "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神互相對待。",
    "ko": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni obdarzeni rozumem "
    "i sumieniem i powinni postępować wobec innych w duchu braterstwa. Każdy człowiek posiada wszystkie prawa i "
    "wolności zawarte w niniejszej Deklaracji bez względu na różnice rasy, koloru, płci, języka i wyznania.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité, sans distinction d'opinion "
    "politique, de fortune, d'origine nationale, de naissance ou de toute autre situation où qu'elle se présente.",
}


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        ("ja", "shift_jis"),
        ("ja", "euc_jp"),
        ("zh", "gbk"),
        ("zh", "gb18030"),
        ("tw", "big5"),
        ("ko", "cp949"),
        ("ru", "cp1251"),
        ("ru", "koi8-r"),
        ("ru", "cp866"),
        ("el", "cp1253"),
        ("pl", "cp1250"),
        ("fr", "cp1252"),
    ],
)
@pytest.mark.parametrize("name", ["note.txt", "notes.md", "page.html"])
def test_an_old_encoding_is_detected_and_named(write: Writer, name: str, language: str, encoding: str) -> None:
    text = TEXTS[language]
    source = read_file(write(name, text.encode(encoding)))
    assert source.text == text
    # What is named may be an encoding that has more letters than the text needs.
    assert text.encode(source.metadata["encoding"]) == text.encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_marks_and_short_western_texts_are_understood(write: Writer, encoding: str) -> None:
    source = read_file(write("note.txt", "Grüße, Maße".encode(encoding)))
    assert source.text == "Grüße, Maße"
    assert source.metadata["encoding"] == encoding


def test_big_endian_marks_are_understood(write: Writer) -> None:
    assert read_file(write("note.txt", b"\xfe\xff" + "Maße".encode("utf-16-be"))).text == "Maße"


@pytest.mark.parametrize("content", [b"caf\xe9 na\xefve", b"caf\xe9 \x81", b"\xff\xfe\xfd \x80\x81 broken"])
def test_what_is_uncertain_is_refused_until_it_is_named(write: Writer, content: bytes) -> None:
    with pytest.raises(ValidationError, match=r"--encoding|not utf-16"):
        read_file(write("note.txt", content))
    assert read_file(write("note.txt", content), encoding="latin-1").text == content.decode("latin-1")


def test_a_wrong_name_is_refused_with_the_place(write: Writer) -> None:
    with pytest.raises(ValidationError, match="it is not utf-8: byte 3 cannot be read"):
        read_file(write("note.txt", b"caf\xe9"), encoding="utf-8")


@pytest.mark.parametrize("name", ["klingon", "hex", "rot13", "x\0y", ""])
def test_an_unknown_encoding_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="encoding"):
        check_encoding(name)


def test_an_encoding_gets_its_usual_name() -> None:
    assert [check_encoding(name) for name in ("Windows-1251", "SJIS", "latin1")] == ["cp1251", "shift_jis", "iso8859-1"]


@pytest.mark.parametrize(
    ("declared", "encoding", "said"),
    [("koi8-r", "koi8-r", "koi8-r"), ("nonsense", "cp1251", "cp1251"), ("utf-8", "cp1251", "cp1251")],
)
def test_a_page_is_read_as_it_says_where_that_is_so(write: Writer, declared: str, encoding: str, said: str) -> None:
    page = f'<html><head><meta charset="{declared}"></head><body><p>{TEXTS["ru"]}</p></body></html>'
    source = read_file(write("a.html", page.encode(encoding)))
    assert (source.text, source.metadata) == (TEXTS["ru"], {"encoding": said})


def test_a_named_encoding_wins_over_what_a_page_says(write: Writer) -> None:
    page = f'<meta charset="koi8-r"><p>{TEXTS["ru"]}</p>'
    assert read_file(write("a.html", page.encode("cp1251")), encoding="cp1251").text == TEXTS["ru"]
