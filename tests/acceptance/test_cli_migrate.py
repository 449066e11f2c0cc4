"""`llmstack migrate` and its verbs, from an installed package."""

from __future__ import annotations

from cli_support import CommandLine

from llmstack.db.schemas import quote
from llmstack.testing import servers

NEWEST = {"kernel": 7, "embeddings": 2, "documents": 5, "conversations": 1}


def test_a_schema_is_migrated_once_and_then_up_to_date(fresh: CommandLine) -> None:
    first, second = fresh.run("migrate"), fresh.run("migrate")
    assert (first.status, first.output) == (0, "schema 'llmstack': migrated\n")
    assert (second.status, second.output) == (0, "schema 'llmstack': already up to date\n")
    assert fresh.run("migrate", "--json").json == [{"schema": "llmstack", "changed": False, "error": None}]


def test_one_module_can_be_migrated_with_what_it_needs(fresh: CommandLine) -> None:
    def pending() -> dict[str, int]:
        modules = fresh.run("migrate", "status", "--json").json["llmstack"]
        return {one["module"]: one["pending"] for one in modules}

    assert fresh.run("migrate", "--module", "embeddings").status == 0
    # All of the kernel comes along: code calls the newest of it, whatever its own tables need.
    assert pending() == {**NEWEST, "kernel": 0, "embeddings": 0}
    assert fresh.run("migrate", "--module", "documents").status == 0
    assert pending() == {**NEWEST, "kernel": 0, "embeddings": 0, "documents": 0}


async def test_several_schemas_go_in_turn_and_the_failed_one_is_named(fresh: CommandLine) -> None:
    assert fresh.url is not None
    await servers.execute(
        fresh.url,
        "CREATE SCHEMA b",
        "CREATE TABLE b.alembic_version (version_num text PRIMARY KEY)",
        "INSERT INTO b.alembic_version VALUES ('documents_9999')",
    )
    done = fresh.run("migrate", "--schema", "a,b,c")
    assert done.status == 5
    assert done.output == "schema 'a': migrated\nschema 'c': migrated\n"
    assert done.errors.startswith("error: schema 'b': holds documents_9999")
    statuses = fresh.run("migrate", "status", "--schema", "a, b, c", "--json")
    assert (statuses.status, list(statuses.json)) == (5, ["a", "c"])


def test_status_shows_what_is_pending_and_how_to_apply_it(fresh: CommandLine) -> None:
    before = fresh.run("migrate", "status")
    assert before.status == 0
    assert [line.split()[1:] for line in before.output.splitlines()[2 : 2 + len(NEWEST)]] == [
        [module, "-", f"{module}_{number:04d}", str(number)] for module, number in NEWEST.items()
    ]
    assert before.output.endswith("to apply them: llmstack migrate\n")
    fresh.run("migrate")
    after = fresh.run("migrate", "status").output
    assert after.splitlines()[2].split() == ["llmstack", "kernel", *2 * [f"kernel_{NEWEST['kernel']:04d}"], "0"]
    assert "to apply them" not in after


async def test_check_finds_a_difference_and_says_which(migrated: CommandLine) -> None:
    assert migrated.run("migrate", "check").output == "schema 'llmstack': as the models say\n"
    assert migrated.url is not None
    await servers.execute(migrated.url, "ALTER TABLE llmstack.documents DROP COLUMN document_date CASCADE")
    done = migrated.run("migrate", "check")
    assert done.status == 1
    assert "schema 'llmstack': tables and models differ" in done.output
    assert "document_date" in done.output
    listed = migrated.run("migrate", "check", "--json")
    assert listed.status == 1
    assert any("document_date" in line for line in listed.json["llmstack"]["differences"])


def test_check_before_an_upgrade_is_status_4(fresh: CommandLine) -> None:
    done = fresh.run("migrate", "check")
    assert done.status == 4
    assert "try:   llmstack migrate" in done.errors


async def test_the_sql_alone_makes_a_schema_that_is_up_to_date(fresh: CommandLine) -> None:
    import asyncpg

    sql = CommandLine("postgresql://nobody@127.0.0.1:1/nothing").run("migrate", "sql", "--schema", "Front desk")
    assert sql.status == 0
    assert fresh.url is not None
    connection = await asyncpg.connect(fresh.url.replace("+asyncpg", ""))
    try:
        await connection.execute(sql.output)
    finally:
        await connection.close()
    done = fresh.run("migrate", "--schema", "Front desk")
    assert done.output == "schema 'Front desk': already up to date\n"


async def test_grants_are_printed_and_applied_only_when_asked(migrated: CommandLine) -> None:
    assert migrated.url is not None
    role = servers.unique_name()
    await servers.execute(migrated.url, f"CREATE ROLE {quote(role)} LOGIN PASSWORD 'secret'")
    try:
        printed = migrated.run("migrate", "grants", "--role", role)
        assert f'GRANT USAGE ON SCHEMA "llmstack" TO "{role}";' in printed.output
        as_role = ("documents", "list", "--owner", "acme", "--url", _as_role(migrated.url, role))
        refused = migrated.run(*as_role)
        assert refused.status == 1
        assert "permission denied" in refused.errors
        applied = migrated.run("migrate", "grants", "--role", role, "--apply", "--json")
        assert (applied.status, applied.json["applied"]) == (0, True)
        assert migrated.run(*as_role).output == "0 of 0 documents\n"
    finally:
        await servers.execute(migrated.url, f"DROP OWNED BY {quote(role)}", f"DROP ROLE {quote(role)}")


def _as_role(url: str, role: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).set(username=role, password="secret").render_as_string(hide_password=False)


def test_grants_for_a_role_that_is_not_there_are_refused(migrated: CommandLine) -> None:
    done = migrated.run("migrate", "grants", "--role", "nobody_at_all", "--apply")
    assert done.status == 1
    assert 'role "nobody_at_all" does not exist' in done.errors
