"""Who may write to a file of rows in a bucket: an object beside the parts, renewed while its run goes on.

It is created on the condition that there is none, where the store knows conditions. One that was not renewed for a
while is of a run that died, and so is one of this machine: its own runs are kept apart by a lock on a file.
"""

from __future__ import annotations

import json
import platform
import secrets
import time
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import read_file, write_file
from .parts import PartStore

NAME = "_lock.json"
RENEWAL_SECONDS = 60.0
EXPIRY_SECONDS = 300.0
SETTLING_SECONDS = 1.0


class StoreLock:
    """The lock of one run."""

    def __init__(self, store: PartStore, folder: Path) -> None:
        """Take it. Raises UsageError if another run has it. `folder` keeps by which name this machine takes it."""
        self._store, self._owner = store, _find_owner(folder)
        self.is_sure = True
        """Whether the store keeps two apart that take it at the same moment."""
        holder = self._read_holder()
        if holder is None:
            if not store.create_object(NAME, self._write()):
                raise self._refuse(self._read_holder() or {})
            self.is_sure = not store.create_object(NAME, self._write())
        elif holder.get("owner") == self._owner:
            store.put_object(NAME, self._write())
        elif _has_expired(holder):
            store.put_object(NAME, self._write())
            time.sleep(SETTLING_SECONDS)  # another may be taking it over as well: the last one has it
            self._check(self._read_holder())
        else:
            raise self._refuse(holder)
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Renew it where that is due. Raises UsageError if another run has taken it."""
        if time.monotonic() - self._renewed < RENEWAL_SECONDS:
            return
        self._check(self._read_holder())
        self._store.put_object(NAME, self._write())
        self._renewed = time.monotonic()

    def release(self) -> None:
        self._store.remove([NAME])

    def _check(self, holder: dict[str, Any] | None) -> None:
        if holder is not None and holder.get("owner") != self._owner:
            raise self._refuse(holder)

    def _refuse(self, holder: dict[str, Any]) -> UsageError:
        host = holder.get("host")
        return UsageError(
            f"another run{f' on {host}' if host else ''} is writing {self._store.name}",
            hint=f"wait for it; one that died is passed over after {EXPIRY_SECONDS / 60:g} minutes",
        )

    def _write(self) -> bytes:
        return json.dumps({"owner": self._owner, "host": platform.node(), "renewed": time.time()}).encode()

    def _read_holder(self) -> dict[str, Any] | None:
        content = self._store.read_object(NAME)
        if content is None:
            return None
        try:
            holder = json.loads(content)
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}


def _has_expired(holder: dict[str, Any]) -> bool:
    renewed = holder.get("renewed")
    return not isinstance(renewed, int | float) or time.time() - renewed > EXPIRY_SECONDS


def _find_owner(folder: Path) -> str:
    path = folder / "owner"
    if not path.exists():
        write_file(path, secrets.token_hex(8).encode())
    return read_file(path, 100).decode("ascii", "replace")
