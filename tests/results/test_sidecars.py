"""Which text file belongs to which image, and what would collide."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from idefics_cli.errors import SourceError, UsageError
from idefics_cli.results.sidecar_index import Origin
from idefics_cli.results.sidecars import NAMED, SidecarName, Sidecars
from idefics_cli.values import Item


@pytest.mark.parametrize(
    ("suffix", "name", "source", "path"),
    [
        (".txt", "stem", "a/cat.jpg", "a/cat.txt"),
        ("txt", "stem", "cat.tar.png", "cat.tar.txt"),
        (".txt", "full", "a.b/cat.jpg", "a.b/cat.jpg.txt"),
        (".txt", "stem", "a.b/cat", "a.b/cat.txt"),
        (".caption", "stem", ".hidden", ".hidden.caption"),
        (".txt", "stem", "caf\udce9 \n.png", "caf\udce9 \n.txt"),
        (".txt", "stem", "-", None),
        (".txt", "stem", "https://a.org/cat.jpg", None),
        (".txt", "stem", "data:image/png;base64,AA", None),
    ],
)
def test_path_of(suffix: str, name: SidecarName, source: str, path: str | None) -> None:
    assert Sidecars(suffix, name).path_of(source) == (Path(path) if path else None)


@pytest.mark.parametrize("suffix", ["", ".", "..", "a/b", ".png", "JPG"])
def test_suffixes_that_could_do_harm_are_refused(suffix: str) -> None:
    with pytest.raises(UsageError):
        Sidecars(suffix)


def item(*images: str, question: str = "") -> Item:
    return Item("x", images, (("question", question),))


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (
            [item("cat.jpg"), item("cat.png")],
            "cat.jpg and cat.png would share cat.txt; add --sidecar-name full",
        ),
        ([item("cat.jpg", question="a"), item("cat.jpg", question="b")], "several questions about cat.jpg"),
        ([item("a.jpg", "b.jpg")], "leave out --together"),
        ([item()], "there are none"),
        ([item("https://a.org/x.jpg?key=secret")], "beside https://a.org/x.jpg?…;"),
        ([item("-")], "beside standard input"),
    ],
)
def test_collisions_are_found_before_the_run(items: list[Item], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(Sidecars().check(items))
    assert reason in str(caught.value)


def test_full_names_do_not_collide_and_the_same_image_may_come_twice() -> None:
    assert len(list(Sidecars(".txt", "full").check([item("cat.jpg"), item("cat.png")]))) == 2
    assert len(list(Sidecars().check([item("cat.jpg"), item("cat.jpg"), item("b/cat.jpg")]))) == 3


def test_a_collision_is_found_however_far_apart_and_the_list_is_not_held() -> None:
    names = (f"{number}.jpg" for number in itertools.chain(range(NAMED + 5), [0]))
    items = (item(name.replace("jpg", "png") if place > NAMED + 4 else name) for place, name in enumerate(names))
    checked = Sidecars().check(items)
    assert next(checked).images == ("0.jpg",)
    with pytest.raises(UsageError, match=r"another item and 0\.png would share 0\.txt"):
        for _ in checked:
            pass


def test_texts_are_written_whole_as_utf_8(tmp_path: Path) -> None:
    sidecars = Sidecars()
    source = str(tmp_path / "cat.jpg")
    assert (sidecars.has(source), sidecars.read(source)) == (False, None)
    sidecars.write(source, "ein Kätzchen\n🐈", Origin("wording"))
    assert (tmp_path / "cat.txt").read_bytes() == "ein Kätzchen\n🐈\n".encode()
    assert (sidecars.has(source), sidecars.read(source)) == (True, "ein Kätzchen\n🐈")
    assert sorted(os.listdir(tmp_path)) == [".idefics-sidecars.jsonl", "cat.txt"]
    with pytest.raises(UsageError, match="cannot write"):
        sidecars.write(str(tmp_path / "none" / "cat.jpg"), "x", Origin("wording"))


def test_a_sidecar_that_is_no_text_fails_its_item(tmp_path: Path) -> None:
    (tmp_path / "cat.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "dog.txt").mkdir()
    for name in ("cat.jpg", "dog.jpg"):
        with pytest.raises(SourceError, match="cannot be read"):
            Sidecars().read(str(tmp_path / name))
