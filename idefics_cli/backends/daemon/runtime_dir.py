"""Where commands find a running server of the same user: a private folder with a socket, a lock and a log.

Knows names and permissions, and when two specs mean the same weights; connects to nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...config import expand_user, user_cache
from ...errors import UsageError
from ...models.hub.cache import find_commit, repo_folder
from ...values import ModelSpec

SOCKET, LOCK, LOG = "server.sock", "server.lock", "server.log"
MAX_SOCKET_BYTES = 100
"""Linux takes 107 bytes, macOS 103; a few are for the name that a socket has before it is ready."""


def find_folder() -> Path:
    """The folder, which may not exist: $IDEFICS_RUNTIME_DIR, or the platform's own."""
    chosen = os.environ.get("IDEFICS_RUNTIME_DIR")
    if chosen:
        return expand_user(chosen, "IDEFICS_RUNTIME_DIR").absolute()
    import platformdirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where nobody has logged in, as in a container
        try:
            return Path(platformdirs.user_runtime_dir("idefics"))
        except OSError:
            return user_cache() / "run"


def check_folder(folder: Path) -> None:
    """Raise UsageError if others can reach what is in a folder."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UsageError(
            f"{folder} is not a folder of yours, so no server is trusted there",
            hint="set IDEFICS_RUNTIME_DIR to a folder that only you can reach",
        )
    if status.st_mode & 0o077:
        raise UsageError(f"{folder} is open to other users", hint=f"close it with chmod 700 {folder}")


def make_folder() -> Path:
    """The folder, created if need be. Raises UsageError if others can reach it or it cannot be created."""
    folder = find_folder()
    if len(os.fsencode(folder / SOCKET)) > MAX_SOCKET_BYTES:
        raise UsageError(f"the name {folder} is too long for a socket", hint="set IDEFICS_RUNTIME_DIR to a shorter one")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        check_folder(folder)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}", hint="set IDEFICS_RUNTIME_DIR to another"
        ) from error
    return folder


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only server of a folder. Raises UsageError if there is one."""
    from filelock import FileLock, Timeout  # here, as it brings asyncio into every command

    lock = FileLock(folder / LOCK, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            "a server is running already, or starting",
            hint="see `idefics serve --status`; end it with `idefics serve --stop`",
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a server runs or is starting there."""
    if not folder.is_dir():
        return False
    try:
        with locked(folder):
            return False
    except UsageError:
        return True


def identify(spec: ModelSpec) -> dict[str, Any]:
    """What distinguishes the loaded weights of a spec from others, as JSON values.

    It includes the state of the files: a checkpoint that was trained or downloaded again is another one. The wording of
    prompts does not matter.
    """
    values: dict[str, Any] = json.loads(json.dumps(spec.list_weights()))
    folder = Path(spec.checkpoint)
    if folder.is_dir():
        values["checkpoint"] = str(folder.resolve())
        files = sorted((entry.name, entry.stat()) for entry in os.scandir(folder) if entry.is_file())
        values["content"] = [[name, status.st_size, status.st_mtime_ns] for name, status in files]
    else:
        commit = find_commit(spec.checkpoint, spec.revision) or spec.revision or ""
        values["content"] = [str(repo_folder(spec.checkpoint)), commit]
    return values
