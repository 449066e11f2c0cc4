"""`llmstack ingest`, `search` and `documents` over real files."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_support import CommandLine, Finished, HereCommandLine

from llmstack.documents.ingestion import BATCH_DOCUMENTS
from llmstack.testing import servers

OWNER = ("--owner", "acme")
TEXT = ("--embedder", "none")
HANDBOOK = """# Handbook

## Leave

Parents take sixteen weeks of parental leave.

## Travel

Trains are preferred to planes.
"""


REST = "2 passed over: 1 .png, 1 empty"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of many kinds, one of which is broken and two of which are passed over."""
    place = tmp_path / "files"
    (place / "deep" / "deeper").mkdir(parents=True)
    (place / "handbook.md").write_text(HANDBOOK)
    (place / "deep" / "notes.txt").write_text("The canteen opens at noon.")
    (place / "deep" / "deeper" / "pay.py").write_text("def salary(grade):\n    return 1000 * grade\n")
    (place / "page.html").write_text("<title>Parking</title><p>The garage has ninety places.</p>")
    (place / "report.pdf").write_bytes(_pdf("Quarterly revenue grew"))
    _docx(place / "letter.docx", "The contract ends in December.")
    (place / "broken.pdf").write_text("this is no PDF")
    (place / "empty.txt").write_text("  \n")
    (place / "picture.png").write_bytes(b"\x89PNG")
    (place / ".hidden").mkdir()
    (place / ".hidden" / "secret.txt").write_text("hidden")
    return place


def _pdf(words: str) -> bytes:
    stream = zlib.compress(f"BT /F1 12 Tf 72 720 Td ({words}) Tj ET".encode())
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 6\n0000000000 65535 f \n" + table
    return out + head + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(out)


def _docx(path: Path, words: str) -> None:
    import docx

    document = docx.Document()
    document.add_paragraph(words)
    document.save(str(path))


def _outcomes(done: Finished) -> dict[str, str]:
    return {Path(one["path"]).name: one["outcome"] for one in done.json["files"]}


def test_a_folder_is_read_and_each_file_is_accounted_for(here: HereCommandLine, folder: Path) -> None:
    done = here.run("ingest", folder, *OWNER, *TEXT)
    assert done.status == 1
    rows = [line.split() for line in done.output.splitlines()]
    stored = {Path(row[1]).name: row[2] for row in rows if row and row[0] == "added"}
    assert set(stored) == {"handbook.md", "notes.txt", "pay.py", "page.html", "report.pdf", "letter.docx"}
    assert "broken.pdf   is not a readable PDF file" in done.output
    assert done.output.splitlines()[-2:] == ["7 files: 6 added, 1 failed", REST]
    assert done.errors == ""
    for query, name in (("revenue", "report.pdf"), ("contract", "letter.docx"), ("garage", "page.html")):
        hits = here.run("search", query, *OWNER, *TEXT, "--json").json["hits"]
        assert [Path(hit["id_at_origin"]).name for hit in hits] == [name]


def test_a_second_run_from_another_folder_finds_the_same_documents(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", ".", *OWNER, *TEXT, cwd=folder)
    (folder / "handbook.md").write_text(HANDBOOK + "\n## Food\n\nThe canteen serves soup.\n")
    (folder / "new.txt").write_text("Something new.")
    again = here.run("ingest", "files", *OWNER, *TEXT, "--json", cwd=folder.parent)
    assert again.json["counts"] == {"added": 1, "updated": 1, "unchanged": 5, "failed": 1}
    assert _outcomes(again)["handbook.md"] == "updated"
    assert here.run("documents", "list", *OWNER, "--json").json["total"] == 7


def test_identities_can_be_relative_to_a_folder(here: HereCommandLine, folder: Path) -> None:
    where = ("--relative-to", folder.parent)
    done = here.run("ingest", folder / "deep", *OWNER, *TEXT, *where, "--json")
    assert [one["id_at_origin"] for one in done.json["files"]] == [
        "files/deep/deeper/pay.py",
        "files/deep/notes.txt",
    ]
    outside = here.run("ingest", folder, *OWNER, *TEXT, "--relative-to", folder / "deep", "--json")
    assert outside.status == 1
    assert _outcomes(outside)["handbook.md"] == "failed"


def test_type_language_and_metadata_go_with_every_document(here: HereCommandLine, folder: Path) -> None:
    given = ("--type", "report", "--language", "de", "--metadata", "team=hr", "--metadata", "year=2024")
    here.run("ingest", folder / "handbook.md", *OWNER, *TEXT, *given, "--chunking", "none")
    (document,) = here.run("documents", "list", *OWNER, "--json").json["documents"]
    assert (document["document_type"], document["language"]) == ("report", "german")
    assert document["metadata"] == {"team": "hr", "year": 2024}
    assert document["chunking"] == {"strategy": "none"}


def test_a_dry_run_needs_no_database_and_says_what_would_be_read(folder: Path) -> None:
    nowhere = CommandLine("postgresql://nobody@127.0.0.1:1/nothing")
    done = nowhere.run("ingest", folder, *OWNER, "--dry-run")
    assert done.status == 1
    assert done.output.splitlines()[-2:] == ["7 files: 6 readable, 1 failed", REST]


def test_a_dry_run_counts_the_chunks_that_the_ingest_then_makes(here: HereCommandLine, folder: Path) -> None:
    arguments = ("ingest", folder / "handbook.md", *OWNER, *TEXT, "--json")
    (tried,) = here.run(*arguments, "--dry-run").json["files"]
    (stored,) = here.run(*arguments).json["files"]
    assert tried["chunks"] == stored["chunks"] > 0


def test_an_unknown_language_is_said(here: HereCommandLine, folder: Path) -> None:
    done = here.run("ingest", folder / "handbook.md", *OWNER, *TEXT, "--language", "klingon")
    assert done.status == 0
    assert done.errors.startswith("warning: PostgreSQL has no text search for 'klingon'")


def test_what_an_embedder_could_not_embed_is_stored_and_said(here: HereCommandLine, folder: Path) -> None:
    local = {"OPENAI_API_KEY": "none", "OPENAI_API_BASE": "http://127.0.0.1:1/v1"}
    model: dict[str, Any] = {
        "LLMSTACK_EMBEDDER": "openai/a-model",
        "LLMSTACK_EMBEDDING_DIMENSIONS": "8",
        **local,
    }
    done = here.run("ingest", folder / "handbook.md", *OWNER, **model)
    assert done.status == 0
    assert "1 added" in done.output
    assert "without a vector yet" in done.errors
    assert "try:   llmstack embeddings process" in done.errors
    found = here.run("search", "trains", *OWNER, **model)
    assert (found.status, "Trains are preferred" in found.output) == (0, True)
    assert "searching by text alone" in found.errors


def test_hits_are_readable_and_plain_where_nobody_looks(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder, *OWNER)
    done = here.run("search", "parental leaves", *OWNER, "--explain")
    lines = done.output.splitlines()
    assert lines[0].startswith(" 1. Handbook")
    assert lines[1].strip() == f"{folder / 'handbook.md'}  (markdown)"
    assert lines[2].strip().startswith("text: rank 1, score ")
    assert "vector: rank " in lines[2]
    assert lines[3].strip().startswith("leav (")
    assert "sixteen weeks of parental leave" in lines[4]
    assert any("mode hybrid" in line for line in lines)
    assert "expected candidates" in done.output
    assert "pk_chunks" in done.output
    assert "weight of the vector leg: 0.5" in done.output
    assert "\x1b" not in done.output


def test_search_takes_other_wordings_groups_hits_and_explains_in_json(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder, *OWNER)
    wording = ("--also", "railway journeys", "--group", "document", "--diversity", "0.1")
    found = here.run("search", "trains", *OWNER, *wording, "--json", "--explain").json
    assert found["explanation"]["wordings"] == ["railway journeys"]
    assert {"text", "vector", "vector_2"} <= {leg for hit in found["hits"] for leg in hit["legs"]}
    origins = [hit["id_at_origin"] for hit in found["hits"]]
    assert len(set(origins)) == len(origins)
    assert "explanation" not in here.run("search", "trains", *OWNER, "--json").json
    assert here.run("search", "trains", *OWNER, "--diversity", "7").status == 2


def test_search_gives_json_with_each_leg(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder, *OWNER)
    found = here.run("search", "canteen", *OWNER, "--json", "-n", "1").json
    assert (found["mode"], found["owner_id"], len(found["hits"])) == ("hybrid", "acme", 1)
    assert found["hits"][0]["legs"]["text"]["rank"] == 1
    assert set(found["hits"][0]["legs"]) == {"text", "vector"}
    assert here.run("search", "canteen", *OWNER, "--json", "--mode", "text").json["mode"] == "text"


def test_search_is_narrowed_by_type_language_and_metadata(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder, *OWNER, *TEXT, "--metadata", "year=2024")

    def names(*arguments: str) -> list[str]:
        hits = here.run("search", "canteen trains salary", *OWNER, *TEXT, "--json", *arguments).json["hits"]
        return sorted(Path(hit["id_at_origin"]).name for hit in hits)

    assert names() == ["handbook.md", "notes.txt", "pay.py"]
    assert names("--type", "code", "--type", "text") == ["notes.txt", "pay.py"]
    assert names("--language", "german") == []
    assert len(names("--metadata", '{"year": {"$gte": 2024}}')) == 3
    assert names("--metadata", '{"year": {"$gt": 2024}}') == []


def test_an_owner_without_documents_is_told_how_to_get_some(here: HereCommandLine) -> None:
    done = here.run("search", "leave", "--owner", "nobody", *TEXT)
    assert done.status == 0
    assert "nothing found" in done.output
    assert "llmstack ingest PATH --owner nobody" in done.output


def test_documents_are_listed_page_by_page(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder, *OWNER, *TEXT)
    seen: list[Any] = []
    cursor: tuple[str, ...] = ()
    for size in (4, 2):
        page = here.run("documents", "list", *OWNER, "-n", 4, "--json", *cursor).json
        assert (page["total"], len(page["documents"])) == (6, size)
        seen += [one["id"] for one in page["documents"]]
        cursor = ("--cursor", page["cursor"])
    assert len(set(seen)) == 6
    assert page["cursor"] is None
    shown = here.run("documents", "list", *OWNER, "-n", 4).output.splitlines()
    assert shown[-2] == "4 of 6 documents"
    assert shown[-1].startswith("next page: llmstack documents list --owner acme --cursor ")
    assert here.run("documents", "list", *OWNER, "--cursor", "nonsense").status == 2


def test_a_document_is_shown_by_its_id_or_its_path(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder / "handbook.md", *OWNER, *TEXT)
    by_path = here.run("documents", "show", folder / "handbook.md", *OWNER, "--chunks", "--json").json
    by_id = here.run("documents", "show", by_path["id"], *OWNER, "--chunks")
    assert by_path["name"] == "Handbook"
    assert "".join(chunk["content"] for chunk in by_path["chunks"]).count("parental leave") == 1
    assert "Trains are preferred to planes." in by_id.output
    for owner, given in (("other", by_path["id"]), ("acme", "no/such/path")):
        assert here.run("documents", "show", given, "--owner", owner).status == 1


def test_documents_are_deleted_restored_and_purged(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder, *OWNER, *TEXT)
    path = folder / "handbook.md"
    document = here.run("documents", "show", path, *OWNER, "--json").json["id"]
    gone = here.run("documents", "delete", path, "no-such", *OWNER)
    assert (gone.status, gone.output) == (1, "deleted 1 document\n")
    assert gone.errors == "error: owner 'acme' has no such document: no-such\n"
    assert here.run("search", "trains", *OWNER, *TEXT, "--json").json["hits"] == []
    assert here.run("documents", "restore", document, *OWNER, "--json").json["restored"] == [document]
    assert len(here.run("search", "trains", *OWNER, *TEXT, "--json").json["hits"]) == 1
    here.run("documents", "delete", document, *OWNER)
    asked = here.run("documents", "purge", *OWNER)
    assert (asked.status, "give --yes" in asked.errors) == (2, True)
    assert here.run("documents", "purge", *OWNER, "--yes", "--days", "1").output == "purged 0 documents\n"
    assert here.run("documents", "purge", *OWNER, "--yes").output == "purged 1 document\n"
    assert here.run("documents", "restore", document, *OWNER).status == 1


def test_another_owner_sees_nothing(here: HereCommandLine, folder: Path) -> None:
    here.run("ingest", folder, *OWNER, *TEXT)
    document = here.run("documents", "show", folder / "handbook.md", *OWNER, "--json").json["id"]
    assert here.run("search", "trains", "--owner", "other", *TEXT, "--json").json["hits"] == []
    assert here.run("documents", "delete", document, "--owner", "other").status == 1
    assert here.run("documents", "list", "--owner", "other", "--json").json["total"] == 0


def test_names_and_texts_cannot_steer_the_terminal(here: HereCommandLine, tmp_path: Path) -> None:
    (tmp_path / "evil\x1b[31m.txt").write_text("harmless \x1b]0;owned\x1b\\ words")
    done = here.run("ingest", tmp_path, *OWNER, *TEXT)
    found = here.run("search", "harmless", *OWNER, *TEXT)
    listed = here.run("documents", "list", *OWNER)
    assert "harmless" in found.output
    assert [one.output for one in (done, found, listed) if "\x1b" in one.output] == []


@pytest.mark.parametrize("arguments", [TEXT, ["--dry-run"]], ids=["ingest", "dry run"])
def test_a_file_that_breaks_its_reader_fails_alone(
    here: HereCommandLine, folder: Path, arguments: Sequence[str]
) -> None:
    (folder / "nested.html").write_text("<div>" * 20_000 + "deep" + "</div>" * 20_000)
    done = here.run("ingest", folder, *OWNER, *arguments, "--json")
    files = {Path(one["path"]).name: one for one in done.json["files"]}
    assert files["nested.html"]["outcome"] == "failed"
    assert "nested too deeply" in files["nested.html"]["note"]
    assert files["handbook.md"]["outcome"] in ("added", "readable")


def test_a_cursor_is_opaque_but_safe_to_guess(here: HereCommandLine) -> None:
    forged = base64.urlsafe_b64encode(b'["name", 1, 2]').decode()
    assert here.run("documents", "list", *OWNER, "--cursor", forged).status == 2


_END_THE_CONNECTION = """
CREATE FUNCTION llmstack.end_connection() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$
"""
_AT_THE_LAST_FILE = """
CREATE TRIGGER at_the_last_file BEFORE INSERT ON llmstack.documents
FOR EACH ROW WHEN (NEW.name = 'last.txt') EXECUTE FUNCTION llmstack.end_connection()
"""


async def test_a_database_that_goes_away_midway_costs_only_what_was_not_reached(
    here: HereCommandLine, tmp_path: Path
) -> None:
    assert here.url is not None
    for number in range(BATCH_DOCUMENTS):
        (tmp_path / f"a{number:03}.txt").write_text(f"the text of number {number}")
    (tmp_path / "last.txt").write_text("the text of the last one")
    await servers.execute(here.url, _END_THE_CONNECTION, _AT_THE_LAST_FILE)
    done = here.run("ingest", tmp_path, *OWNER, *TEXT)
    assert done.status == 3
    assert done.output.splitlines()[-1] == f"{BATCH_DOCUMENTS} files: {BATCH_DOCUMENTS} added"
    assert "1 file not reached; the same command may be run again" in done.errors
    await servers.execute(here.url, "DROP TRIGGER at_the_last_file ON llmstack.documents")
    again = here.run("ingest", tmp_path, *OWNER, *TEXT, "--json")
    assert (again.status, again.json["counts"]) == (0, {"added": 1, "unchanged": BATCH_DOCUMENTS})
