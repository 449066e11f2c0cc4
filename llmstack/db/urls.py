"""Database URLs: what SQLAlchemy's asyncpg dialect needs from them, and how they may be shown."""

from __future__ import annotations

import ssl
from typing import Any, get_args
from uuid import uuid4

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ..errors import ConfigurationError
from ..settings import Settings, TLSMode

_DRIVERS = {"postgres", "postgresql", "postgresql+asyncpg"}
_PASSED_ON = {"host", "port", "passfile", "target_session_attrs", "service"}
_CREDENTIALS = {"user": "username", "password": "password"}
_TLS = {"sslmode": "mode", "sslrootcert": "ca_file", "sslcert": "cert_file", "sslkey": "key_file"}
_POOLER_SETTINGS = {"application_name"}


def parse_url(url: str | URL) -> URL:
    """A URL for asyncpg; never shows the URL itself in an error, for it may hold a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "the database URL cannot be read; write postgresql://user:password@host:5432/database"
        ) from None
    if parsed.drivername not in _DRIVERS:
        raise ConfigurationError(f"the database URL names {parsed.drivername!r}; llmstack runs on postgresql://")
    query = dict(parsed.query)
    credentials = {part: query.pop(name) for name, part in _CREDENTIALS.items() if name in query}
    return parsed.set(drivername="postgresql+asyncpg", query=query, **credentials)  # type: ignore[arg-type]


def masked(url: str | URL) -> str:
    """The URL without its password, wherever in the URL that stood."""
    return parse_url(url).render_as_string(hide_password=True)


def engine_arguments(url: str | URL, settings: Settings, *, pooled: bool = True) -> tuple[URL, dict[str, Any]]:
    """The URL and keyword arguments for `create_async_engine`."""
    parsed = parse_url(url)
    query = dict(parsed.query)
    connect: dict[str, Any] = {"server_settings": _server_settings(settings)}
    if (timeout := query.pop("connect_timeout", None)) is not None:
        connect["timeout"] = _seconds(str(timeout))
    if (name := query.pop("application_name", None)) is not None:
        connect["server_settings"]["application_name"] = str(name)
    tls = {part: str(query.pop(key)) for key, part in _TLS.items() if key in query}
    if unknown := sorted(set(query) - _PASSED_ON):
        raise ConfigurationError(f"the database URL has unsupported parameters: {', '.join(unknown)}")
    if (context := _tls_context(settings, **tls)) is not None:
        connect["ssl"] = context
    if settings.behind_pooler:
        connect.update(_pooler_arguments(settings, connect["server_settings"]))
    # Parameters hold texts of tenants; errors end up in logs.
    arguments: dict[str, Any] = {"connect_args": connect, "hide_parameters": True}
    if pooled:
        arguments.update(
            pool_size=settings.pool_size,
            max_overflow=settings.max_overflow,
            pool_timeout=settings.pool_timeout,
            pool_recycle=settings.pool_recycle,
        )
    return parsed.set(query=query), arguments


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigurationError(f"connect_timeout in the database URL is no number: {value!r}") from None


def _server_settings(settings: Settings) -> dict[str, str]:
    values = {
        "application_name": settings.application_name,
        "statement_timeout": str(int(settings.statement_timeout * 1000)),
        "idle_in_transaction_session_timeout": str(int(settings.idle_in_transaction_session_timeout * 1000)),
        "jit": "off",
        # A generic plan cannot know how few rows an owner has.
        "plan_cache_mode": "force_custom_plan",
    }
    if settings.extension_schema != "public":
        from .schemas import quote

        values["search_path"] = f'"$user", public, {quote(settings.extension_schema)}'
    return values


def _pooler_arguments(settings: Settings, server_settings: dict[str, str]) -> dict[str, Any]:
    """Transaction pooling: no named statement survives a transaction, and start-up parameters are refused."""
    return {
        "server_settings": {key: value for key, value in server_settings.items() if key in _POOLER_SETTINGS},
        "command_timeout": settings.statement_timeout or None,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"llmstack_{uuid4().hex}",
    }


def _tls_context(
    settings: Settings,
    *,
    mode: str | None = None,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
) -> ssl.SSLContext | TLSMode | str | None:
    mode = settings.tls or mode
    if mode is not None and mode not in get_args(TLSMode):
        raise ConfigurationError(f"sslmode is {mode!r}; it can be {', '.join(get_args(TLSMode))}")
    authority = settings.tls_ca_file or ca_file
    certificate, key = settings.tls_cert_file or cert_file, settings.tls_key_file or key_file
    if authority is None and certificate is None:
        return mode
    if mode in ("disable", "allow", "prefer"):
        raise ConfigurationError(f"there are TLS files, but the TLS mode is {mode!r}; use require or verify-full")
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the TLS files cannot be used: {error}") from error
    # As libpq, and Python before 3.13: authorities made as PostgreSQL's manual says do not tell what their key is for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode in (None, "verify-full")
    if mode == "require" and authority is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
