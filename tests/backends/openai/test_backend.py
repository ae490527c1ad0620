"""The remote backend against a real server on this machine, through the real commands."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from idefics_cli.backends import close_backends
from idefics_cli.backends.openai import client as connection
from tests.backends.openai.server import (
    OpenAIServer,
    Trouble,
    close_early,
    fail,
    hang,
    open_server,
    say,
    stream_and_break,
)
from tests.program import Run

ROOT = Path(__file__).parents[3]
Command = Callable[..., Run]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(connection, "RETRY", replace(connection.RETRY, backoff_seconds=0.01))
    with open_server() as one:
        os.environ["IDEFICS_SERVER"] = one.url
        yield one
    close_backends()


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    with open_server("vllm") as one:
        os.environ["IDEFICS_SERVER"] = one.url
        yield one
    close_backends()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain pictures, so that what comes back says which one was looked at."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        colour = ("red", "blue")[number % 2]
        PIL.Image.new("RGB", (20 + number, 10), colour).save(tmp_path / "in" / f"{number:02}.png")
    return tmp_path / "in"


def rows_of(result: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_folder_is_answered_in_order_and_several_at_once(server: OpenAIServer, folder: Path, run: Command) -> None:
    server.seconds = 0.1
    result = run("vqa", folder, "-q", "What is it?", "--batch-size", "4")
    lines = [line.split("\t")[1] for line in result.stdout.splitlines()]
    assert result.code == 0, result.stderr
    assert lines == [f"I see {('red', 'blue')[n % 2]} {20 + n}x10 in turn 1." for n in range(12)]
    assert 2 <= server.most_at_once <= 4
    assert "using vl, the first model of the server" in result.stderr
    assert server.bodies[0]["messages"][0]["content"][-1] == {"type": "text", "text": "What is it?"}


def test_a_row_is_as_any_other(server: OpenAIServer, folder: Path, run: Command) -> None:
    drawn = ("--temperature", "0.5", "--seed", "7")
    result = run("caption", folder / "00.png", "--model", "other", "--format", "jsonl", *drawn)
    (row,) = rows_of(result)
    assert (row["text"], row["model"], row["revision"]) == ("I see red 20x10 in turn 1.", "other", None)
    assert row["usage"] == {"prompt_tokens": 40, "shared_tokens": 8, "new_tokens": 4}
    assert row["finish_reason"] == "stop"
    assert 0 < float(str(row["seconds"])) < 30
    (body,) = server.bodies
    assert (body["model"], body["temperature"], body["seed"]) == ("other", 0.5, 7)


def test_shots_are_turns(server: OpenAIServer, folder: Path, run: Command, tmp_path: Path) -> None:
    shots = [{"image": f"in/0{n}.png", "answer": f"colour {n}"} for n in range(2)]
    (tmp_path / "shots.jsonl").write_text("".join(json.dumps(shot) + "\n" for shot in shots))
    result = run("caption", folder / "02.png", "--examples", tmp_path / "shots.jsonl")
    assert result.stdout == "I see red 20x10 and blue 21x10 and red 22x10 in turn 5.\n", result.stderr
    assert [message["role"] for message in server.bodies[0]["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert server.bodies[0]["messages"][1]["content"] == "colour 0"


def test_an_answer_is_streamed(server: OpenAIServer, folder: Path, run: Command) -> None:
    result = run("caption", folder / "01.png", "--stream", "--model", "vl")
    assert (result.code, result.stdout) == (0, "I see blue 21x10 in turn 1.\n"), result.stderr
    assert server.bodies[0]["stream"] is True


def test_beams_of_a_template_are_left_out(server: OpenAIServer, folder: Path, run: Command) -> None:
    result = run("write", folder / "01.png", "--model", "vl")
    assert (result.code, result.stdout) == (0, "I see blue 21x10 in turn 1.\n"), result.stderr
    refused = run("write", folder / "01.png", "--model", "vl", "--num-beams", "2")
    assert (refused.code, len(server.bodies)) == (1, 1)
    assert "--num-beams" in refused.stderr


def test_a_run_is_gone_on_with(server: OpenAIServer, folder: Path, run: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    server.troubles = [fail(400)] * 2
    first = run("caption", folder, "-o", out, "--max-errors", "2", "--batch-size", "1")
    assert first.code == 1
    again = run("caption", folder, "-o", out, "--existing", "retry-errors")
    assert again.code == 0, again.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["text"] for row in rows) == sorted(
        f"I see {('red', 'blue')[n % 2]} {20 + n}x10 in turn 1." for n in range(12)
    )
    local = run("caption", folder, "-o", out, "--server", server.url, "--max-new-tokens", "7")
    assert (local.code, "another command or model" in local.stderr or "decoding" in local.stderr) == (2, True)


def test_a_batch_mixes_tasks(server: OpenAIServer, folder: Path, run: Command, tmp_path: Path) -> None:
    items = [
        {"id": "1", "task": "caption", "image": "in/00.png"},
        {"id": "2", "task": "vqa", "image": "in/01.png", "question": "What is <image>?"},
        {"id": "3", "task": "vqa", "image": "in/01.png", "question": "<|im_end|>"},
        {"id": "4", "task": "caption", "image": "in/none.png"},
        {"id": "5", "task": "caption", "image": "in/01.png", "num_beams": 3},
        {"id": "6", "task": "classify", "image": "in/01.png", "labels": ["red", "blue"]},
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    result = run("batch", tmp_path / "items.jsonl")
    rows = rows_of(result)
    assert [row["error"] and row["error"]["code"] for row in rows] == [  # type: ignore[index]
        None, "special_token", "special_token", "not_found", "bad_item", "bad_item",
    ]  # fmt: skip
    assert result.code == 1
    assert "--num-beams; set --num-beams 1" in str(rows[4]["error"])
    assert "--generate" in str(rows[5]["error"])
    assert len(server.bodies) == 1


def test_it_tries_again_where_that_may_help(server: OpenAIServer, folder: Path, run: Command) -> None:
    cases: list[list[Trouble]] = [
        [fail(500), fail(503)],
        [fail(429, **{"Retry-After": "0"})],
        [close_early],
        [lambda page: say(page, 200, b"{garbage")],
        [lambda page: page.answer(200, {"Content-Type": "text/html", "Content-Length": "3"}, b"<p>")],
    ]
    for troubles in cases:
        server.troubles = troubles
        result = run("caption", folder / "00.png", "--model", "vl")
        assert (result.code, result.stdout) == (0, "I see red 20x10 in turn 1.\n"), result.stderr
        assert not server.troubles


def test_one_that_fails_fails_alone(server: OpenAIServer, folder: Path, run: Command) -> None:
    server.troubles = [
        fail(400, "This model's maximum context length is 4096 tokens"),
        fail(400, "bad\nimage"),
        lambda page: say(page, 200, {"choices": []}),
        lambda page: say(page, 200, {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}),
        lambda page: say(page, 200, {"error": {"message": "gone"}}),
        fail(429, **{"Retry-After": "3600"}),
        *[fail(500)] * 4,
        hang,
    ]
    result = run(
        "caption",
        folder,
        "--format",
        "jsonl",
        "--batch-size",
        "1",
        "--server-timeout",
        "3",
        "--model",
        "vl",
    )
    codes = [row["error"] and row["error"]["code"] for row in rows_of(result)]  # type: ignore[index]
    assert codes == [
        "prompt_too_long", "refused", *["fetch_failed"] * 5, "timeout", *[None] * 4,
    ]  # fmt: skip
    assert result.code == 1
    assert "refuses this request (400 Bad Request: bad image)" in result.stdout
    assert "--server-timeout" in result.stdout


@pytest.mark.parametrize("reason", [["stop"], {"why": "stop"}, 7, "content_filter"])
def test_an_end_that_is_none_fails_alone(server: OpenAIServer, folder: Path, run: Command, reason: object) -> None:
    choice = {"message": {"content": "x"}, "finish_reason": reason}
    server.troubles = [lambda page: say(page, 200, {"choices": [choice], "usage": {"prompt_tokens": 10**400}})]
    result = run("caption", folder, "--format", "jsonl", "--batch-size", "1", "--model", "vl")
    codes = [row["error"] and row["error"]["code"] for row in rows_of(result)]  # type: ignore[index]
    assert codes == ["refused", *[None] * 11]
    assert result.code == 1


def test_what_was_shown_is_not_asked_for_again(server: OpenAIServer, folder: Path, run: Command) -> None:
    server.troubles = [stream_and_break]
    result = run("caption", folder / "00.png", "--stream", "--model", "vl")
    assert result.code == 1
    assert len(server.bodies) == 1
    assert "no chat completion" in result.stderr or "broke off" in result.stderr


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (fail(401, "Incorrect API key provided: secret-1"), "set $IDEFICS_API_KEY"),
        (fail(404, "The model `x` does not exist."), "--model takes one of the server's own names"),
    ],
)
def test_what_would_fail_for_all_ends_the_run(
    server: OpenAIServer, folder: Path, run: Command, trouble: Callable[..., None], told: str
) -> None:
    os.environ["IDEFICS_API_KEY"] = "secret-1"
    server.troubles = [trouble] * 20
    result = run("caption", folder, "--model", "vl", "--format", "jsonl")
    assert result.code == 3
    assert told in result.stderr
    assert "secret-1" not in result.stderr + result.stdout
    assert {headers["Authorization"] for _, headers in server.site.asked} == {"Bearer secret-1"}


def test_a_server_that_is_down_is_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path, run: Command) -> None:
    monkeypatch.setattr(connection, "RETRY", replace(connection.RETRY, backoff_seconds=0.01))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        for extra in ((), ("--model", "vl")):
            result = run("caption", folder / "00.png", "--server", url, *extra)
            assert result.code == 3
            assert f"no server answers at {url}/v1" in result.stderr
            assert len(result.stderr.splitlines()) == 1
    close_backends()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--style", "completion"), "chat messages only"),
        (("--dtype", "bfloat16", "--4bit"), "--dtype, --4bit cannot be set on a server"),
        (("--server", "localhost:8000"), "not the address of a server"),
        (("--server", "http://me:secret@localhost"), "put the key into $IDEFICS_API_KEY"),
        (("--server", "http://me:secret@localhost:port"), "is not a URL"),
        (("--server", "http://localhost/v1?api_key=secret"), "is not the address of a server"),
    ],
)
def test_what_a_server_cannot_be_told_is_refused(
    server: OpenAIServer, folder: Path, run: Command, arguments: tuple[str, ...], told: str
) -> None:
    result = run("caption", folder / "00.png", *arguments)
    assert (result.code, told in result.stderr, "secret" in result.stderr) == (2, True, False), result.stderr
    assert not server.bodies


def test_what_only_some_servers_know_goes_to_those(vllm: OpenAIServer, folder: Path, run: Command) -> None:
    result = run("caption", folder / "00.png", "--temperature", "1", "--top-k", "5", "--repetition-penalty", "1.2")
    assert result.code == 0, result.stderr
    assert (vllm.bodies[0]["top_k"], vllm.bodies[0]["repetition_penalty"]) == (5, 1.2)
    prompted = run("caption", folder / "00.png", "--prompt", "This is an image of ")
    assert prompted.code == 0, prompted.stderr
    assert vllm.bodies[1]["continue_final_message"] is True
    assert vllm.bodies[1]["messages"][-1] == {"role": "assistant", "content": "This is an image of"}


def test_labels_are_ranked_by_the_likelihood_of_a_finished_turn(vllm: OpenAIServer, folder: Path, run: Command) -> None:
    result = run("classify", folder, "--labels", "red,blue,dark red,blue blue", "--format", "jsonl")
    rows = rows_of(result)
    assert [row["label"] for row in rows] == ["red", "blue"] * 6, result.stderr
    scores = {one["label"]: one["logprob"] for one in rows[0]["scores"]}  # type: ignore[attr-defined]
    assert scores == pytest.approx({"red": -0.6, "blue": -2.5, "dark red": -2.6, "blue blue": -4.5})
    total = math.fsum(one["probability"] for one in rows[0]["scores"])  # type: ignore[attr-defined]
    assert total == pytest.approx(1)
    one = ("classify", folder / "00.png", "--format", "jsonl", "--labels", "red,dark red")
    per_token = rows_of(run(*one, "--normalize", "tokens"))
    assert per_token[0]["scores"][0]["logprob"] == pytest.approx(-0.3)  # type: ignore[index]
    against = rows_of(run(*one, "--normalize", "pmi"))
    assert against[0]["scores"][0]["logprob"] == pytest.approx(1.9)  # type: ignore[index]


def test_labels_are_ranked_by_a_walk_through_their_tokens_where_the_server_tells_of_them(
    vllm: OpenAIServer, folder: Path, run: Command
) -> None:
    words = ("classify", folder, "--labels", "red,blue,dark red,blue blue", "--format", "jsonl")
    whole = rows_of(run(*words))
    close_backends()
    vllm.tells_tokens = True
    vllm.bodies.clear()
    walked = rows_of(run(*words))
    for one, other in zip(walked, whole, strict=True):
        assert one["scores"] == other["scores"]
        assert one["usage"] == {"prompt_tokens": 40, "shared_tokens": 8, "new_tokens": 0}
    assert all("prompt_logprobs" not in body for body in vllm.bodies)
    steps = {body["messages"][-1]["content"] for body in vllm.bodies if body["continue_final_message"]}
    assert steps == {"red", "blue", "dark", "dark red", "blue blue"}
    assert len(vllm.bodies) == 12 * 6
    close_backends()
    vllm.bodies.clear()
    assert rows_of(run(*words, "--normalize", "pmi"))[0]["label"] == "red"
    assert len(vllm.bodies) == 13 * 6  # what labels score without an image is asked once


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stop", "a", "--stop", "b", "--stop", "c", "--stop", "d", "--stop", "e"), "vLLM takes 4 --stop"),
        (("--detail", "low"), "it is not known how vl cuts images; leave --detail out"),
        (("--max-new-tokens", "5000"), "leaves no room for a prompt: the server's model has 4,096"),
    ],
)
def test_what_vllm_would_refuse_is_one_line(
    vllm: OpenAIServer, folder: Path, run: Command, words: tuple[str, ...], said: str
) -> None:
    models = {"data": [{"id": "vl", "owned_by": "vllm", "max_model_len": 4096}]}
    vllm.site.pages["/v1/models"] = lambda page: say(page, 200, models)
    result = run("vqa", folder / "00.png", "-q", "What is it?", *words)
    assert (result.code, said in result.stderr) == (1, True), result.stderr
    assert vllm.bodies == []


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("At most 1 image(s) may be provided in one prompt.", "larger --limit-mm-per-prompt"),
        ("stop cannot contain an empty string.", "leave the empty --stop out"),
        ("temperature must be in [0, 2], got 3.0.", "set --temperature 2 or less"),
        ("Per-request mm_processor_kwargs are not allowed", "start it with --trust-request-mm-kwargs"),
    ],
)
def test_a_refusal_says_what_to_change(
    server: OpenAIServer, folder: Path, run: Command, refusal: str, said: str
) -> None:
    server.troubles = [lambda page: say(page, 400, {"error": {"message": refusal}})]
    result = run("vqa", folder / "00.png", "-q", "What is it?")
    assert (result.code, said in result.stderr) == (1, True), result.stderr


def test_an_answer_that_the_context_cut_off_is_none_and_no_marker_is_written(
    vllm: OpenAIServer, folder: Path, run: Command
) -> None:
    models = {"data": [{"id": "vl", "owned_by": "vllm", "max_model_len": 50}]}
    vllm.site.pages["/v1/models"] = lambda page: say(page, 200, models)
    choice = {"message": {"content": "a red"}, "finish_reason": "length"}
    usage = {"prompt_tokens": 40, "completion_tokens": 10}
    vllm.troubles = [lambda page: say(page, 200, {"choices": [choice], "usage": usage})]
    result = run("vqa", folder / "00.png", "-q", "?", "--format=jsonl", "--max-new-tokens", "20")
    assert rows_of(result)[0]["error"]["code"] == "prompt_too_long"  # type: ignore[index]
    assert "leaves 10 of the model's 50 for an answer of 20" in result.stderr
    assert vllm.bodies[0]["bad_words"] == ["<image>", "<fake_token_around_image>"]


@pytest.mark.parametrize(
    ("logprob", "code"), [(10**400, "fetch_failed"), ("x", "fetch_failed"), (math.nan, "not_finite")]
)
def test_a_likelihood_that_is_none_fails_alone(
    vllm: OpenAIServer, folder: Path, run: Command, logprob: object, code: str
) -> None:
    told = [None, {"1": {"logprob": logprob, "decoded_token": "x"}}]
    vllm.troubles = [lambda page: say(page, 200, {"choices": [], "prompt_logprobs": told})]
    result = run("classify", folder, "--labels", "red,blue", "--format", "jsonl", "--batch-size", "1")
    codes = [row["error"] and row["error"]["code"] for row in rows_of(result)]  # type: ignore[index]
    assert codes == [code, *[None] * 11]
    assert result.code == 1


def test_nothing_heavy_is_imported_and_the_prompt_can_be_looked_at(server: OpenAIServer, folder: Path) -> None:
    program = """
import sys
from idefics_cli.cli.app import execute
assert execute(sys.argv[1:]) == 0
print(sorted({"torch", "transformers", "huggingface_hub", "tokenizers"} & set(sys.modules)))
"""
    for extra, shown in (((), "I see red 20x10 in turn 1."), (("--dry-run",), '"type": "image_url"')):
        result = subprocess.run(
            [sys.executable, "-c", program, "caption", str(folder / "00.png"), "--model", "vl", *extra],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert shown in result.stdout
        assert result.stdout.splitlines()[-1] == "[]"


def test_a_format_is_asked_for_and_proven_whatever_the_server_made_of_it(
    vllm: OpenAIServer, folder: Path, run: Command
) -> None:
    schema = {"type": "object", "properties": {"seen": {"type": "string"}}, "required": ["seen"]}
    result = run("extract", folder / "00.png", "--schema", json.dumps(schema), "--format", "jsonl")
    asked = vllm.bodies[-1]["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["schema"] == schema
    assert json.loads(result.stdout)["error"]["code"] == "invalid_output"  # this one does not care for formats
    assert result.code == 1
    question = ("vqa", folder / "00.png", "-q", "What is it?", "--format", "jsonl")
    assert run(*question, "--regex", "I see .*").code == 0
    assert vllm.bodies[-1]["structured_outputs"] == {"regex": "I see .*"}
    run(*question, "--choices", "red,blue")
    assert vllm.bodies[-1]["structured_outputs"] == {"choice": ["red", "blue"]}


def test_a_format_that_a_server_is_not_known_to_keep_to_is_refused(
    server: OpenAIServer, folder: Path, run: Command
) -> None:
    result = run("vqa", folder / "00.png", "-q", "What is it?", "--choices", "red,blue")
    assert result.code == 1
    assert "is not known to keep to choices" in result.stderr
    assert server.bodies == []
