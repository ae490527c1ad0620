"""What crosses the socket comes out as it went in."""

from __future__ import annotations

import json
from dataclasses import replace

import PIL.Image
import pytest

from idefics_cli.backends.daemon.protocol import dump_line, dump_outcomes, pack, read_outcomes, unpack
from idefics_cli.backends.daemon.runtime_dir import identify
from idefics_cli.errors import AnswerError, ItemError, PromptError
from idefics_cli.values import (
    Answer,
    Choice,
    Decoding,
    Image,
    ImagePart,
    Message,
    ModelSpec,
    Request,
    Score,
    TextPart,
    Usage,
)


def picture(source: str, colour: str, size: tuple[int, int] = (3, 2)) -> Image:
    return Image(source, PIL.Image.new("RGB", size, colour), f"digest-{colour}")


ODD = "caf\udce9.png"
"""The name of a file that is not UTF-8."""
REQUEST = Request(
    "ä\n1",
    "vqa",
    (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (ImagePart(ODD), TextPart("What\u2028is\x00it?"), ImagePart("b.png"))),
    ),
    Decoding(temperature=0.1 + 0.2, stop=("\n", "x"), seed=2**63),
    choices=(Choice("a", " a\n"), Choice("b", " b\n")),
    fields=(("question", "What?"), ("other", "")),
    template="vqa@1",
    images=(ODD,),
    normalize="pmi",
    opening="It is",
)


def test_requests_and_images_come_out_as_they_went_in() -> None:
    images = {ODD: picture(ODD, "red"), "b.png": picture("b.png", "blue", (1, 5)), "c": picture("c", "red")}
    plain = Request("2", "caption", ())
    message = b"".join(pack([REQUEST, plain], images, streams=True))
    requests, found, others = unpack(message)
    assert requests == [REQUEST, plain]
    assert others == {"streams": True}
    assert list(found) == list(images)
    for source, image in images.items():
        assert (found[source].source, found[source].digest) == (source, image.digest)
        assert found[source].pixels.tobytes() == image.pixels.tobytes()
    assert found[ODD].pixels is found["c"].pixels  # one picture under two names travels once


def test_outcomes_come_out_as_they_went_in() -> None:
    scores = (Score("b", -0.1, 0.9), Score("a", float("-inf"), 0.0))
    outcomes: list[Answer | ItemError] = [
        Answer(" A caf\u00e9.", "the whole", "length", scores, Usage(1, 2, 3), 1 / 3),
        PromptError("a marker", code="special_token", hint="leave it out"),
        Answer(""),
        AnswerError("none", code="no_label"),
    ]
    found = read_outcomes(json.loads(dump_line({"outcomes": dump_outcomes(outcomes)}))["outcomes"])
    assert [found[0], found[2]] == [outcomes[0], outcomes[2]]
    assert [one.to_failure() for one in found if isinstance(one, ItemError)] == [
        one.to_failure() for one in outcomes if isinstance(one, ItemError)
    ]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"no JSON\n",
        b'{"requests": [{"id": 1}], "sources": {}, "sizes": {}}\n',
        b'{"requests": [], "sources": {"a": "b"}, "sizes": {}}\n',
        b'{"requests": [], "sources": {}, "sizes": {"b": [9, 9]}}\nabc',
        b'{"requests": [], "sources": {}, "sizes": {}}\nabc',
        b'{"requests": [{"prompt": [{"role": "user", "parts": [{}]}]}], "sources": {}, "sizes": {}}\n',
    ],
)
def test_what_is_no_message_is_a_value_error(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any of them
        unpack(message)


def test_the_same_weights_have_the_same_identity(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.safetensors").write_bytes(b"weights")
    spec = ModelSpec(str(folder))
    before = identify(spec)
    assert identify(replace(spec, style="chat")) == before
    assert identify(replace(spec, checkpoint=f"{folder}/../{folder.name}")) == before
    assert identify(replace(spec, quantization="4bit")) != before
    (folder / "model.safetensors").write_bytes(b"trained on")
    assert identify(spec) != before
