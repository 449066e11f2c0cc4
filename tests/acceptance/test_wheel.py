"""The built wheel in an environment of its own: it migrates, and carries what it and its reader need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PACKAGES, PAGES

from llmstack.db.schemas import quote
from llmstack.testing import servers

HOUSE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def build(target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=HOUSE, check=True, capture_output=True)
    (built,) = folder.glob("llmstack-*")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment with the wheel, which borrows its dependencies from ours."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        "-q",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    # After the wheel's own folder on the path, so that the checkout cannot stand in for it.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture
def url(llmstack_server_url: str) -> Iterator[str]:
    from sqlalchemy.engine import make_url

    name = servers.unique_name()
    servers.run_apart(servers.execute(llmstack_server_url, f"CREATE DATABASE {quote(name)}"))
    yield make_url(llmstack_server_url).set(database=name).render_as_string(hide_password=False)
    servers.run_apart(servers.drop(llmstack_server_url, name))


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that sees no setting but those given."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLMSTACK_", "PYTHON"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_every_revision_and_the_marker_of_its_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    revisions = {path.relative_to(HOUSE).as_posix() for path in HOUSE.glob("llmstack/*/migrations/*_[0-9]*.py")}
    assert revisions
    environment = {"llmstack/db/alembic_env/env.py", "llmstack/db/alembic_env/script.py.mako"}
    assert names >= revisions | environment | {"llmstack/py.typed", "llmstack/testing/plugin.py"}


def test_the_page_of_every_package_goes_along(wheel: Path, tmp_path: Path) -> None:
    written = {str(page) for page in PACKAGES}
    assert set(zipfile.ZipFile(wheel).namelist()) >= written
    with tarfile.open(build("sdist", tmp_path)) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert packed >= {str(page) for page in PAGES}


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"llmstack"}
    assert [name for name in names if "__pycache__" in name] == []


def test_the_wheel_offers_its_command_and_its_plugin(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(points).decode()
    assert "llmstack = llmstack.cli:run" in text
    assert "llmstack = llmstack.testing.plugin" in text


def test_the_installed_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    place = run(installed / "python", "-c", "import llmstack; print(llmstack.__file__)", cwd=tmp_path)
    assert Path(place).is_relative_to(installed.parent)


def test_the_installed_command_migrates(installed: Path, url: str, tmp_path: Path) -> None:
    run(installed / "llmstack", "migrate", "--url", url, "--schema", "Wheel", cwd=tmp_path)
    status = run(installed / "llmstack", "migrate", "status", "--url", url, "--schema", "Wheel", cwd=tmp_path)
    assert "documents_0005" in status


_API = """
import asyncio, sys
from llmstack.db import Database, migrate

async def main() -> None:
    async with Database(sys.argv[1]) as database:
        print(await migrate.upgrade(database.engine, schema="Wheel"))
        print(await migrate.upgrade(database.engine, schema="Wheel"))
        await migrate.check(database.engine, schema="Wheel")

asyncio.run(main())
"""


def test_the_installed_package_migrates_by_its_api(installed: Path, url: str, tmp_path: Path) -> None:
    assert run(installed / "python", "-c", _API, url, cwd=tmp_path).split() == ["True", "False"]


def test_a_checkout_migrates_with_nothing_but_the_url(url: str, tmp_path: Path) -> None:
    for part in ("alembic", "llmstack"):
        shutil.copytree(HOUSE / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOUSE / "alembic.ini", tmp_path)
    command = [sys.executable, "-m", "alembic.config"]
    run(*command, "upgrade", "heads", cwd=tmp_path, LLMSTACK_DATABASE_URL=url)
    assert "documents_0005" in run(*command, "current", cwd=tmp_path, LLMSTACK_DATABASE_URL=url)
