"""TLS against a real server whose certificate the test has made; the embedded server speaks none."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from llmstack.db import Database
from llmstack.errors import ConfigurationError, DatabaseUnavailable
from llmstack.settings import Settings

HBA = """
local all all trust
hostssl all carol all cert
hostssl all all all trust
"""


def server_programs() -> Path:
    """A PostgreSQL with TLS: the one on PATH, else the newest that Debian installs."""
    found = [Path(path) for path in [shutil.which("postgres") or ""] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    if not found or shutil.which("openssl") is None:
        pytest.skip("needs a PostgreSQL server built with TLS (postgres on PATH) and the program openssl")
    return found[0].parent


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificate(folder: Path, name: str, *, common_name: str, authority: str, extension: str = "") -> None:
    extensions = folder / f"{name}.ext"
    extensions.write_text(extension)
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={common_name}")  # fmt: skip
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", "-days", "2",
            "-CAcreateserial", "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key",
            "-extfile", str(extensions))  # fmt: skip


def make_authority(folder: Path, name: str) -> None:
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.crt")  # fmt: skip


def as_server(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: there, give the folder to an account that may."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("nobody")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    with tempfile.TemporaryDirectory(prefix="llmstack-tls-") as name:
        folder = Path(name)
        for authority in ("authority", "stranger"):
            make_authority(folder, authority)
        make_certificate(
            folder, "server", common_name="db", authority="authority", extension="subjectAltName=IP:127.0.0.1"
        )
        make_certificate(folder, "carol", common_name="carol", authority="authority")
        yield folder


@pytest.fixture(scope="module")
def port(certificates: Path) -> Iterator[int]:
    programs = server_programs()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = int(listener.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="llmstack-tls-") as name:
        folder = Path(name)
        for needed in ("authority.crt", "server.crt", "server.key"):
            shutil.copy(certificates / needed, folder)
        (folder / "server.key").chmod(0o600)
        (folder / "hba").write_text(HBA)
        options: dict[str, Any] = {
            "cwd": folder,
            "check": True,
            "stdout": subprocess.DEVNULL,
            **as_server(folder),
        }
        data, log = str(folder / "data"), str(folder / "log")
        initdb = [str(programs / "initdb"), "--auth=trust", "--username=postgres", "--no-sync", "-D", data]
        subprocess.run(initdb, **options)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": number,
            "unix_socket_directories": folder,
            "hba_file": folder / "hba",
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": folder / "server.crt",
            "ssl_key_file": folder / "server.key",
            "ssl_ca_file": folder / "authority.crt",
        }
        with Path(data, "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
        pg_ctl = [str(programs / "pg_ctl"), "-D", data, "-w"]
        subprocess.run([*pg_ctl, "-l", log, "start"], **options)
        yield number
        subprocess.run([*pg_ctl, "-m", "immediate", "stop"], **options)


@pytest.fixture(autouse=True)
async def _refused_sockets_are_closed() -> AsyncIterator[None]:
    yield
    # A transport closes its socket in a later turn of the loop.
    await asyncio.sleep(0.01)


async def is_encrypted(url: str, **settings: Any) -> Any:
    async with (
        Database(url, settings=Settings(**settings)) as database,
        database.service().session() as session,
    ):
        return await session.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))


@pytest.mark.parametrize("mode", ["allow", "prefer", "require"])
async def test_a_mode_without_files_encrypts(port: int, mode: str) -> None:
    assert await is_encrypted(f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode={mode}")
    assert await is_encrypted(f"postgresql://postgres@127.0.0.1:{port}/postgres", tls=mode)


async def test_disable_sends_no_tls_and_the_servers_refusal_is_explained(port: int) -> None:
    with pytest.raises(ConfigurationError, match="no encryption"):
        await is_encrypted(f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable")


@pytest.mark.parametrize("mode", [None, "verify-ca", "verify-full", "require"])
async def test_the_authority_of_the_settings_is_trusted(port: int, certificates: Path, mode: str | None) -> None:
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    assert await is_encrypted(url, tls=mode, tls_ca_file=certificates / "authority.crt")


async def test_the_authority_of_the_url_is_trusted(port: int, certificates: Path) -> None:
    query = f"sslmode=verify-full&sslrootcert={certificates / 'authority.crt'}"
    assert await is_encrypted(f"postgresql://postgres@127.0.0.1:{port}/postgres?{query}")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full", "require"])
async def test_a_strange_authority_is_refused(port: int, certificates: Path, mode: str) -> None:
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with pytest.raises(DatabaseUnavailable, match="certificate verify failed"):
        await is_encrypted(url, tls=mode, tls_ca_file=certificates / "stranger.crt")


async def test_another_host_name_passes_verify_ca_and_fails_verify_full(port: int, certificates: Path) -> None:
    url = f"postgresql://postgres@localhost:{port}/postgres"
    assert await is_encrypted(url, tls="verify-ca", tls_ca_file=certificates / "authority.crt")
    with pytest.raises(DatabaseUnavailable, match="localhost"):
        await is_encrypted(url, tls="verify-full", tls_ca_file=certificates / "authority.crt")


async def test_a_client_certificate_is_the_login(port: int, certificates: Path) -> None:
    url = f"postgresql://carol@127.0.0.1:{port}/postgres"
    files = {
        "tls": "verify-full",
        "tls_ca_file": certificates / "authority.crt",
        "tls_cert_file": certificates / "carol.crt",
        "tls_key_file": certificates / "carol.key",
    }
    owner = Database(f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=require")
    async with owner, owner.engine.begin() as connection:
        await connection.execute(text("CREATE ROLE carol LOGIN"))
    assert await is_encrypted(url, **files)
    with pytest.raises(ConfigurationError, match="certificate"):
        await is_encrypted(url, tls="require")


async def test_verification_without_an_authority_names_the_file_that_is_missing(
    port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"root\.crt"):
        await is_encrypted(f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=verify-full")
