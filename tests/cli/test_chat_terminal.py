"""A conversation on a real terminal: what is typed, shown, stopped and remembered."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from idefics_cli.cli.chat_commands import COMMANDS
from idefics_cli.cli.terminal import find_paragraph_end
from tests.scripted_program import COMMAND, ROOT
from tests.terminal import draw

SECONDS = 60
"""A busy machine takes long to start a program."""
_CODES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>()][0-9A-B]?)")


class Screen:
    """A program behind a pseudo-terminal, and all it has shown, without colours and cursor movements."""

    def __init__(self, command: list[str], columns: int = 200, **environment: str) -> None:
        self._main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        names = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": str(columns), **environment}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **names}, stdin=side, stdout=side, stderr=side,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(side)
        self.raw = ""
        self._read = 0

    def type(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def wait_for(self, text: str) -> str:
        """What came since the last wait, up to and with this text."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            shown = _CODES.sub("", self.raw)
            place = shown.find(text, self._read)
            if place >= 0:
                since, self._read = shown[self._read : place + len(text)], place + len(text)
                return since
            if not self._take(0.5) and self.process.poll() is not None:
                break
        raise AssertionError(f"{text!r} never came: {_CODES.sub('', self.raw)[-2000:]!r}")

    def end(self) -> int:
        """Wait for the program and take what is left."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            self._take(0.2)
        while self._take(0.2):
            pass
        try:
            code = self.process.wait(1)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._main)
        assert "Traceback" not in self.raw, self.raw
        return code

    def _take(self, seconds: float) -> bool:
        if not select.select([self._main], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self._main, 65536)
        except OSError:  # how Linux tells the end of a terminal
            return False
        self.raw += piece.decode(errors="replace")
        return bool(piece)


@pytest.fixture
def talk() -> Iterator[Callable[..., Screen]]:
    opened: list[Screen] = []

    def start(*arguments: str | Path, columns: int = 200, **environment: str) -> Screen:
        command = [*COMMAND, "chat", "--model", "idefics2", *map(str, arguments)]
        opened.append(Screen(command, columns, **environment))
        opened[-1].wait_for("Ctrl-D" if columns < 80 else "Ctrl-D ends")
        opened[-1].wait_for(">")
        return opened[-1]

    yield start
    for screen in opened:
        if screen.process.poll() is None:
            screen.process.kill()
            screen.process.wait()


def test_a_conversation_with_all_its_commands(
    talk: Callable[..., Screen], two_images: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = two_images
    screen = talk(first)
    screen.type("What is it?\r")
    shown = screen.wait_for("1 saw a.png")
    assert "I heard 'What is it?' after 0 replies" in shown, "Markdown is rendered"
    assert "\x1b[2J" not in screen.raw.rpartition("heard")[2], "what a model says does not clear the screen"

    screen.type("one\x1b\rtwo\x1b\rthree\r")  # Alt-Enter, typed ahead
    assert r"'one\ntwo\nthree' after 1 replies" in screen.wait_for("1 saw a.png")

    screen.type(f"/image {second}\r")
    screen.wait_for("an image goes with the next message")
    screen.type("/image none.png\r")
    screen.wait_for("none.png cannot be read")
    screen.type("And now?\r")
    assert "after 2 replies" in screen.wait_for("1 saw a.png, b.png")

    screen.type("What is <image>?\r")
    screen.wait_for("special token")
    screen.type("too long\r")
    screen.wait_for("/reset begins a new conversation")
    screen.type("/undo\r")
    screen.wait_for("took back the last message and its reply; its images go with the next one")
    screen.type("Again?\r")
    assert "'Again?' after 2 replies" in screen.wait_for("1 saw a.png, b.png")

    saved = tmp_path / "talk.json"
    screen.type(f"/save {saved}\r")
    screen.wait_for("saved as")
    content = json.loads(saved.read_text())
    assert [turn["message"] for turn in content["turns"]] == ["What is it?", "one\ntwo\nthree", "Again?"]
    assert [turn.get("images", []) for turn in content["turns"]] == [["a.png"], [], ["b.png"]]
    assert content["turns"][0]["reply"].startswith("I **heard** 'What is it?'")
    screen.type(f"/save {first}\r")
    screen.wait_for("[y/N]")
    screen.type("y\n")
    screen.wait_for("is not a saved conversation; save under another name")

    screen.type("/reset\r")
    screen.wait_for("a new conversation")
    screen.type("/system Be kind.\r")
    screen.wait_for("system message set")
    screen.type("Hello?\r")
    assert "after 0 replies as Be kind." in screen.wait_for("1 saw no image")
    screen.type(f"/load {saved}\r")
    screen.wait_for("3 messages and their replies")
    screen.type("More?\r")
    assert "after 3 replies" in screen.wait_for("1 saw a.png, b.png")

    screen.type("/set temperature 0.5\r")
    screen.wait_for("temperature 0.5")
    screen.type("/set temperature warm\r")
    screen.wait_for("temperature must be a number, not 'warm'")
    screen.type("/set heat 3\r")
    screen.wait_for("no decoding option 'heat'")
    screen.type("/dance\r")
    screen.wait_for("no command /dance")
    screen.type("/help\r")
    screen.wait_for("/load FILE")
    screen.type("//etc is a folder\r")
    screen.wait_for("heard '/etc is a folder'")
    screen.wait_for(">")
    screen.type("\x04")
    assert screen.end() == 0


def test_ctrl_c_stops_the_reply_and_keeps_the_conversation(talk: Callable[..., Screen]) -> None:
    screen = talk(SCRIPTED_CHARACTER_SECONDS="0.2")
    screen.type("First?\r")
    screen.wait_for("I heard")
    screen.type("\x03")
    screen.wait_for("stopped; what was said so far stays")
    screen.wait_for(">")
    screen.type("half a line\x03")  # at the prompt it only takes back what is typed
    screen.type("Second?\r")
    screen.wait_for("'Second?' after 1 replies")
    screen.type("\x03")
    screen.wait_for("stopped")
    screen.wait_for(">")
    screen.type("\x04")
    assert screen.end() == 0


@pytest.mark.parametrize("attempt", range(3))
def test_sigterm_ends_it_also_while_keys_are_read(talk: Callable[..., Screen], attempt: int) -> None:
    """The prompt reads keys in an event loop, which keeps most exceptions to itself."""
    screen = talk()
    screen.type("ab\x7f" * 300)
    screen.wait_for("a")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 130


def test_what_was_typed_is_remembered_for_this_user_only(talk: Callable[..., Screen]) -> None:
    screen = talk()
    screen.type("Remember me?\r")
    screen.wait_for("1 saw")
    screen.wait_for(">")
    screen.type("\x04")
    assert screen.end() == 0
    history = Path(os.environ["IDEFICS_STATE_DIR"]) / "chat_history"
    assert "Remember me?" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    again = talk()
    again.type("\x1b[A\r")
    again.wait_for("I heard 'Remember me?'")
    again.wait_for(">")
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == 130


def test_the_embedded_checkpoint_converses(red_circle: Path) -> None:
    screen = Screen([sys.executable, "-m", "idefics_cli", "chat", str(red_circle), "--model", "shapes"])
    screen.wait_for(">")
    screen.type("What is in this image?\r")
    screen.wait_for("A red circle on a white background.")
    screen.wait_for(">")
    screen.type("What colour is the shape?\r")
    screen.wait_for("red")
    screen.type("/system Be brief.\r")
    screen.wait_for("trained without a system message")
    screen.wait_for(">")  # what is typed before it may be lost while the terminal changes its mode
    screen.type("\x04")
    assert screen.end() == 0


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("one line", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\n", "one\n\n"),
        ("one\n", ""),
        ("a\n\n```\nb\n\nc", "a\n\n"),
        ("```\nb\n\n```\n\nc", "```\nb\n\n```\n\n"),
        ("a\n\n~~~\n```\n\n~~~", "a\n\n"),
    ],
)
def test_a_paragraph_is_finished_by_a_blank_line_outside_of_code(text: str, finished: str) -> None:
    assert text[: find_paragraph_end(text)] == finished


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_word_is_broken_however_narrow_it_is(talk: Callable[..., Screen], columns: int) -> None:
    words = [f"internationally-{letter * number}" for number, letter in enumerate("abcdefghijkl", 2)]
    screen = talk(columns=columns)
    screen.type(f"{' '.join(words)}\r")
    screen.wait_for("saw no image")
    screen.wait_for(">")
    for line, end in (("/help", "/quit"), ("/set heat 3", "known"), ("/dance", "/help"), ("/quit", "")):
        screen.type(f"{line}\r")
        screen.wait_for(end)
    assert screen.end() == 0
    shown = draw(screen.raw, columns)
    said = " ".join(shown[[("heard" in line) for line in shown].index(True) :])
    assert all(word in said.split() for word in words[1:-1]), shown
    told = {word for one in COMMANDS.values() for word in one.help.split()}
    assert told <= set(" ".join(shown).split()), shown


REPLY = """See {address} for more, and {wide} too.

# {title}

- short, then {snug} alone
- one {address}/in-a-list

1. {wide}つ

> quoted {snug}q and {address}/quoted

| name | where |
|---|---|
| cat | {address}/in-a-table |

```python
print("{code}")
```
"""


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_word_wider_than_the_screen_is_left_to_the_terminal(talk: Callable[..., Screen], columns: int) -> None:
    """It is one word to whoever copies it, whole where it fits on a line of its own, and shown once."""
    words = {
        "address": "https://example.org/" + "".join(f"{number:04}/" for number in range(40)) + "end",
        "wide": "猫" * (columns + 3),  # twice as many cells
        "title": "T" * (columns + 5),
        "snug": "s" * (columns - 1),
        "code": "c" * (2 * columns),
    }
    reply = REPLY.format(**words)
    screen = talk(columns=columns, SCRIPTED_REPLY=reply, SCRIPTED_CHARACTER_SECONDS="0.0005")
    screen.type("hello\r")
    screen.wait_for(f'{words["code"]}")')
    screen.wait_for(">")
    screen.type("/quit\r")
    assert screen.end() == 0
    whole = [word for word in re.findall(r"\S+", reply) if len(word) >= columns - 1 and word[0] != "|"]
    sent = _CODES.sub("", screen.raw)
    assert all(word in sent for word in whole), sent
    shown = draw(screen.raw, columns)
    together = "".join(shown)
    for name, times in (("address", 4), ("wide", 2), ("title", 1), ("snug", 2), ("code", 1)):
        assert together.count(words[name]) == times, (name, shown)
    assert words["snug"] in shown
    assert "for more, and" in " ".join(shown)


def test_what_is_typed_first_is_understood(talk: Callable[..., Screen], red_circle: Path, tmp_path: Path) -> None:
    screen = talk()
    screen.type("What is it?\r")
    screen.wait_for("no image was shown yet; /image PATH")
    screen.wait_for("saw no image")
    screen.type(f"{red_circle}\r")
    screen.wait_for("is this an image to look at? [y/N]")
    screen.type("y\n")
    screen.wait_for("an image goes with the next message")
    kept = tmp_path / "kept.json"
    kept.write_text("mine")
    screen.type(f"/save {kept}\r")
    screen.wait_for(f"replace {kept}? [y/N]"[:40])
    screen.type("n\n")
    screen.wait_for("was not replaced")
    assert kept.read_text() == "mine"
    screen.type("/set temperature hot\r")
    screen.wait_for("temperature must be a number, not 'hot'")
    screen.type("/quit\r")
    assert screen.end() == 0
    assert screen.raw.count("no image was shown yet") == 1
