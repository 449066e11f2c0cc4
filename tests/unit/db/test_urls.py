"""Which URLs are understood, and that none of them ever shows its password."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from llmstack.db import Database
from llmstack.db.urls import engine_arguments, masked, parse_url
from llmstack.errors import ConfigurationError
from llmstack.settings import Settings, TLSMode

URL = "postgresql://ann:s3cret@db.example:5433/app"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_the_scheme_means_asyncpg(scheme: str) -> None:
    assert parse_url(f"{scheme}://ann@db/app").drivername == "postgresql+asyncpg"


@pytest.mark.parametrize("url", ["mysql://ann:s3cret@db/app", "postgresql+psycopg://ann:s3cret@db/app"])
def test_another_driver_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mysql|psycopg") as caught:
        parse_url(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "s3cret", "://ann:s3cret@db", "postgresql//ann:s3cret@db/app"])
def test_a_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://user:password@host") as caught:
        parse_url(url)
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_port_that_is_no_number_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url("postgresql://ann:s3cret@db:port/app")
    assert "s3cret" not in repr(caught.value)


def test_a_password_is_masked_in_the_authority() -> None:
    assert masked(URL) == "postgresql+asyncpg://ann:***@db.example:5433/app"


def test_a_password_in_the_query_is_used_and_masked() -> None:
    url = "postgresql://db/app?user=ann&password=s3cret"
    assert (parse_url(url).username, parse_url(url).password) == ("ann", "s3cret")
    assert "s3cret" not in masked(url)


@pytest.mark.parametrize("query", ["password=s3cret", "user=a&password=s3cret", "password=s3cret&password=t0p"])
def test_a_database_never_shows_its_password(query: str) -> None:
    database = Database(f"postgresql://db/app?{query}")
    shown = repr(database) + repr(database.service()) + repr(database.engine) + str(database.engine.url)
    assert "s3cret" not in shown
    assert "t0p" not in shown


def test_the_password_of_a_key_file_parameter_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError, match="sslpassword") as caught:
        engine_arguments("postgresql://db/app?sslpassword=s3cret", Settings())
    assert "s3cret" not in repr(caught.value)


def test_settings_never_show_a_url() -> None:
    settings = Settings(database_url=SecretStr(URL), reader_url=SecretStr(URL))
    assert "s3cret" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_parameters_of_libpq_are_translated() -> None:
    query = "connect_timeout=7&application_name=api&sslmode=require"
    url, arguments = engine_arguments(f"{URL}?{query}", Settings())
    connect = arguments["connect_args"]
    assert (connect["timeout"], connect["server_settings"]["application_name"]) == (7.0, "api")
    assert connect["ssl"] == "require"
    assert not url.query


def test_a_connect_timeout_that_is_no_number_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="connect_timeout"):
        engine_arguments(f"{URL}?connect_timeout=soon", Settings())


def test_a_socket_folder_stays_in_the_query() -> None:
    url, _ = engine_arguments("postgresql://postgres@/app?host=/run/postgresql&port=5433", Settings())
    assert dict(url.query) == {"host": "/run/postgresql", "port": "5433"}


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ConfigurationError, match="keepalives, options"):
        engine_arguments(f"{URL}?options=-c&keepalives=1", Settings())


def test_the_pool_has_the_sizes_of_the_settings() -> None:
    _, arguments = engine_arguments(URL, Settings())
    assert {key: arguments[key] for key in ("pool_size", "max_overflow", "pool_timeout", "pool_recycle")} == {
        "pool_size": 20,
        "max_overflow": 10,
        "pool_timeout": 30.0,
        "pool_recycle": 3600,
    }


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
def test_the_setting_wins_over_the_urls_tls_mode(mode: TLSMode) -> None:
    _, arguments = engine_arguments(f"{URL}?sslmode=prefer", Settings(tls=mode))
    assert arguments["connect_args"]["ssl"] == mode


def test_without_tls_settings_the_driver_decides() -> None:
    _, arguments = engine_arguments(URL, Settings())
    assert "ssl" not in arguments["connect_args"]


def test_an_unknown_tls_mode_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="sslmode"):
        engine_arguments(f"{URL}?sslmode=always", Settings())


def test_a_missing_authority_file_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="TLS files"):
        engine_arguments(f"{URL}?sslmode=verify-full&sslrootcert=/none/ca.pem", Settings())


def test_files_without_a_mode_that_uses_them_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'prefer'"):
        engine_arguments(f"{URL}?sslmode=prefer&sslrootcert=/none/ca.pem", Settings())


def test_behind_a_pooler_no_start_up_parameter_but_the_name_is_sent() -> None:
    _, arguments = engine_arguments(URL, Settings(behind_pooler=True), pooled=False)
    connect = arguments["connect_args"]
    assert connect["server_settings"] == {"application_name": "llmstack"}
    assert connect["statement_cache_size"] == connect["prepared_statement_cache_size"] == 0
    names = {connect["prepared_statement_name_func"]() for _ in range(10)}
    assert len(names) == 10


def test_an_extension_schema_of_its_own_is_on_the_search_path_quoted() -> None:
    _, arguments = engine_arguments(URL, Settings(extension_schema='My "Ext'))
    path = arguments["connect_args"]["server_settings"]["search_path"]
    assert path == '"$user", public, "My ""Ext"'
