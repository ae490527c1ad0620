"""Rows under review: corrected, joined, read on while they are written, by two at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from idefics_cli.errors import UsageError
from idefics_cli.review.corrections import review_path
from idefics_cli.review.duplicates import find_duplicates
from idefics_cli.review.page import diff_words
from idefics_cli.review.session import Outdated, ReviewSession, View
from tests.review.rows import make_failed, make_ranked, make_row, read_rows, write_rows


def open_session(*paths: Path) -> ReviewSession:
    session = ReviewSession(paths, paths[0].parent / "cache")
    session.read_all()
    return session


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    several = [
        make_row(0),
        make_row(1),
        make_ranked(2, "cat", 0.6),
        make_ranked(3, "dog", 0.9, "cat"),
        make_failed(4),
    ]
    return write_rows(tmp_path / "rows.jsonl", several)


def texts(session: ReviewSession, query: str = "", sort: str = "", stamp: int = 0) -> list[str]:
    return [row["text"] for row in session.show(View(query, sort, stamp), 0, 100, facets=True)["rows"]]


def test_corrections_are_appended_and_found_by(rows: Path) -> None:
    before = rows.read_bytes()
    session = open_session(rows)
    assert session.decide([0], "text", {"text": "a blue star"}, {0: 0}) == [0]
    assert session.decide([2, 3], "label", {"label": "bird"}, {}) == [2, 3]
    assert session.decide([1], "reject", {}, {}) == [1]
    assert session.decide([0], "accept", {}, {0: 1}) == [0]
    assert rows.read_bytes() == before
    entries = read_rows(review_path(rows))
    assert [entry["decision"] for entry in entries] == ["edit", "edit", "edit", "reject", "accept"]
    assert entries[0] | {"time": ""} == {
        "id": "0.png",
        "key": "01234567-0000000000000000",
        "before": {"text": "a red circle, number 0", "label": None},
        "after": {"text": "a blue star", "label": None},
        "decision": "edit",
        "time": "",
    }
    assert texts(session, "star") == ["a blue star"]
    assert texts(session, "label:bird") == ["bird", "bird"]
    assert texts(session, "label:cat") == []
    assert texts(session, "is:edited") == ["a blue star", "bird", "bird"]
    assert texts(session, "decision:reject") == ["a red circle, number 1"]
    assert texts(session, "-is:reviewed") == [""]


def test_undo_takes_back_step_by_step_also_after_a_restart(rows: Path) -> None:
    session = open_session(rows)
    session.decide([0], "text", {"text": "one"}, {})
    session.decide([0, 1], "replace", {"old": "number", "new": "no."}, {})
    session.decide([0], "text", {"text": "two"}, {})
    session.decide([0], "reject", {}, {})
    session = open_session(rows)
    assert session.undo() == 1
    assert session.show_whole(0)["decision"] == "edit"
    assert session.undo() == 1
    assert session.show_whole(0)["text"] == "one"
    session = open_session(rows)
    assert session.undo() == 1
    assert session.show_whole(1)["text"] == "a red circle, number 1"
    assert session.undo() == 1
    assert session.show_whole(0)["text"] == "a red circle, number 0"
    assert session.show_whole(0)["decision"] == ""
    assert session.undo() == 0
    assert texts(session, "is:reviewed") == []


def test_two_sessions_see_and_respect_each_other(rows: Path) -> None:
    one, other = open_session(rows), open_session(rows)
    one.decide([0], "text", {"text": "mine"}, {0: 0})
    with pytest.raises(Outdated, match="elsewhere"):
        other.decide([0], "text", {"text": "yours"}, {0: 0})
    assert texts(other)[0] == "mine"
    assert other.decide([0], "text", {"text": "yours"}, {0: 1}) == [0]
    assert texts(one)[0] == "yours"


def test_a_row_that_was_answered_by_a_person_is_no_failure(rows: Path) -> None:
    session = open_session(rows)
    session.decide([4], "text", {"text": "a dog"}, {})
    assert texts(session, "is:failed") == []
    assert session.show_whole(4)["error"] is None


def test_rows_that_are_still_being_written_appear(rows: Path) -> None:
    session = open_session(rows)
    session.decide([0], "text", {"text": "kept"}, {})
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"id": "5.png", "images": ["5.png"], "te')
        file.flush()
        session.read_all()
        assert len(texts(session)) == 5
        file.write('xt": "late"}\n')
    session.read_all()
    assert texts(session, "late") == ["late"]
    # A run that makes failed rows again puts a new file in the place of the old one.
    write_rows(rows.with_name("new"), [make_row(9), make_row(0)])
    shutil.move(rows.with_name("new"), rows)
    session.read_all()
    assert texts(session) == ["a red circle, number 9", "kept"]
    assert session.index.generation == 1


def test_lines_that_are_no_rows_are_failed_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "x"}\r\n\n[1, 2]\n{"id": "b"\n{"text": NaN}\n{"id": 7}')
    session = open_session(path)
    shown = session.show(View("is:failed"), 0, 10, facets=False)["rows"]
    assert [row["error"]["code"] for row in shown] == ["bad_row"] * len(shown)
    assert len(shown) == 3
    assert texts(session, "x")[:1] == ["x"]
    assert session.index.count == 5


def test_two_files_are_joined_by_item(tmp_path: Path) -> None:
    left = write_rows(tmp_path / "a.jsonl", [make_row(0), make_row(1), make_ranked(2, "cat", 0.7), make_row(3)])
    right = [
        make_ranked(2, "Cat ", 0.6),
        make_row(1, text="a blue circle, number 1"),
        make_row(7),
        make_row(0),
    ]
    session = open_session(left, write_rows(tmp_path / "b.jsonl", right))
    reply = session.show(View(), 0, 10, facets=True)
    assert dict(reply["facets"]["is"]) == {"agree": 2, "disagree": 1, "missing": 2}
    assert texts(session, "is:missing") == ["a red circle, number 3", "a red circle, number 7"]
    (row,) = session.show(View("is:disagree"), 0, 10, facets=False)["rows"]
    assert row["diff"][1:3] == [("left", "red"), ("right", "blue")]
    session.decide([row["row"]], "right", {}, {})
    assert texts(session, "is:disagree") == ["a blue circle, number 1"], "it stays where it is until asked anew"
    assert texts(session, "is:disagree", stamp=1) == []
    assert session.show_whole(row["row"])["text"] == "a blue circle, number 1"
    only_right = session.show(View("is:missing"), 1, 1, facets=False)["rows"][0]["row"]
    with pytest.raises(UsageError, match=r"only in b\.jsonl"):
        session.decide([only_right], "accept", {}, {})
    with pytest.raises(UsageError, match="no answer for this row"):
        session.decide([3], "right", {}, {})


def test_several_questions_about_one_image_are_joined_with_their_own(tmp_path: Path) -> None:
    def ask(question: str, text: str) -> dict[str, object]:
        return make_row(0, fields={"question": question}, text=text)

    left = write_rows(tmp_path / "a.jsonl", [ask("one", "1"), ask("two", "2")])
    session = open_session(left, write_rows(tmp_path / "b.jsonl", [ask("two", "2"), ask("one", "x")]))
    assert texts(session, "is:agree") == ["2"]
    assert texts(session, "is:disagree") == ["1"]


def test_only_one_file_has_nothing_to_compare(rows: Path) -> None:
    with pytest.raises(UsageError, match="two files"):
        texts(open_session(rows), "is:agree")


def test_images_of_the_same_content_are_found(tmp_path: Path, two_images: tuple[Path, Path]) -> None:
    first, second = two_images
    copy = tmp_path / "copy.png"
    shutil.copy(first, copy)
    several = [make_row(n, images=[str(path)]) for n, path in enumerate((first, second, copy, first))]
    session = open_session(write_rows(tmp_path / "rows.jsonl", [*several, make_row(9)]))
    found = find_duplicates(session.index, lambda done, total: False)
    assert found is not None
    assert np.flatnonzero(found).tolist() == [0, 2]


def test_thumbnails_are_upright_small_and_kept(tmp_path: Path, red_circle: Path) -> None:
    import io

    import PIL.Image

    turned = tmp_path / "turned.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (1200, 600), "red").save(turned, exif=exif)
    session = open_session(write_rows(tmp_path / "rows.jsonl", [make_row(0, images=["turned.jpg", str(red_circle)])]))
    picture = PIL.Image.open(io.BytesIO(session.picture(0, 0, "small")))
    assert picture.size == (128, 256)
    assert len(list((tmp_path / "cache" / "thumbnails").glob("*/*.webp"))) == 1
    session.picture(0, 1, "small")
    with pytest.raises(Outdated):
        session.picture(0, 2, "small")


@pytest.mark.parametrize(
    ("left", "right"), [("a b c", "a x c"), ("", "a"), ("same", "same"), ("ab", "a-b"), ("x" * 9, "")]
)
def test_a_diff_holds_both_texts(left: str, right: str) -> None:
    pieces = diff_words(left, right)
    assert "".join(text for side, text in pieces if side != "right") == left
    assert "".join(text for side, text in pieces if side != "left") == right


def test_large_answers_are_cut_in_the_list_only(tmp_path: Path) -> None:
    session = open_session(write_rows(tmp_path / "rows.jsonl", [make_row(0, text="word " * 200_000)]))
    assert len(texts(session)[0]) < 1000
    assert len(session.show_whole(0)["text"]) == 1_000_000
    assert session.decide([0], "replace", {"old": "word", "new": "W"}, {}) == [0]
    assert session.show_whole(0)["length"] == 400_000


def test_a_torn_entry_is_passed_over(rows: Path) -> None:
    session = open_session(rows)
    session.decide([0], "text", {"text": "one"}, {})
    with review_path(rows).open("ab") as file:
        file.write(b'{"id": "1.png", "key')
    session = open_session(rows)
    session.decide([1], "text", {"text": "two"}, {})
    assert texts(open_session(rows))[:2] == ["one", "two"]
