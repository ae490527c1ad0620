"""A server that behaves as OpenAI-compatible ones do, and answers by the pixels it was sent.

`troubles` are what it does instead of answering, one after the other.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import PIL.Image

from tests.site import Page, Site, open_site

Trouble = Callable[[Page], None]
COLOURS = {(255, 0, 0): "red", (0, 0, 255): "blue", (255, 255, 255): "white"}


class OpenAIServer:
    def __init__(self, site: Site, owner: str = "library") -> None:
        self.owner = owner
        self.url = site.url("")
        self.site = site
        self.bodies: list[dict[str, Any]] = []
        self.troubles: list[Trouble] = []
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        models = {
            "object": "list",
            "data": [{"id": "vl", "owned_by": owner}, {"id": "other", "owned_by": owner}],
        }
        site.serve("/v1/models", (200, {"Content-Type": "application/json"}, json.dumps(models).encode()))
        site.pages["/v1/chat/completions"] = self._chat
        site.pages["/tokenize"] = self._tokenize
        self.tells_tokens = False
        """Whether it tells the tokens of a prompt, and how likely any of them is, as vLLM does since 2026."""

    def _chat(self, page: Page) -> None:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.bodies.append(json.loads(page.body))
            trouble = self.troubles.pop(0) if self.troubles else None
        try:
            time.sleep(self.seconds)
            if trouble is not None:
                trouble(page)
            else:
                self._answer(page, json.loads(page.body))
        finally:
            with self._lock:
                self.at_once -= 1

    def _tokenize(self, page: Page) -> None:
        if not self.tells_tokens:
            return say(page, 404, {"detail": "Not Found"})
        words, _ = lay_out(json.loads(page.body))
        tokens = [name_token(word) for word in words]
        strings = [word if word == "\n" else f"\u0120{word}" for word in words]
        return say(page, 200, {"count": len(tokens), "tokens": tokens, "token_strs": strings})

    def _answer(self, page: Page, body: dict[str, Any]) -> None:
        if body["model"] not in ("vl", "other"):
            return say(page, 404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        text = describe(body["messages"])
        usage = {"prompt_tokens": 40, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
        if "logprob_token_ids" in body and self.tells_tokens:
            return say(page, 200, tell_tokens(body, usage))
        if "prompt_logprobs" in body and self.owner == "vllm":
            choice = {"message": {"content": "x"}, "finish_reason": "length"}
            return say(page, 200, {"choices": [choice], "usage": usage, "prompt_logprobs": likelihoods(body)})
        if not body.get("stream"):
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return say(page, 200, {"choices": [choice], "usage": usage})
        page.send_response(200)
        page.send_header("Content-Type", "text/event-stream")
        page.end_headers()
        for event in [*pieces(text), {"choices": [], "usage": usage}]:
            page.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            page.wfile.flush()
        page.wfile.write(b": a comment\n\ndata: [DONE]\n\n")
        return None


def name_token(word: str) -> int:
    """The token of a word, which is found again by it."""
    return WORDS.setdefault(word, len(WORDS) + 100)


WORDS: dict[str, int] = {}


def tell_tokens(body: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    words, colour = lay_out(body)
    by_token = {token: word for word, token in WORDS.items()}
    told = [
        {"token": f"token_id:{token}", "logprob": find_logprob(by_token[token], colour)}
        for token in body["logprob_token_ids"]
    ]
    choice = {"message": {"content": "x"}, "finish_reason": "length"}
    choice["logprobs"] = {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": told}]}
    return {"choices": [choice], "usage": usage, "prompt_token_ids": [name_token(word) for word in words]}


def pieces(text: str) -> Iterator[dict[str, Any]]:
    yield {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    for word in text.split(" "):
        yield {"choices": [{"delta": {"content": f" {word}"}, "finish_reason": None}]}
    yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def look(part: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    """The colour in the middle of an image and its size."""
    header, _, data = part["image_url"]["url"].partition(",")
    assert header == "data:image/png;base64"
    image = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.mode == "RGB"
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return COLOURS[(int(pixel[0]), int(pixel[1]), int(pixel[2]))], image.size


def describe(messages: list[dict[str, Any]]) -> str:
    """What is in all images, and how many turns there were."""
    seen = [
        look(part)
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    named = " and ".join(f"{colour} {width}x{height}" for colour, (width, height) in seen) or "nothing"
    return f"I see {named} in turn {len(messages)}."


def find_logprob(word: str, colour: str) -> float:
    return {colour: -0.1, "<end>": -0.5, "\n": -7.0}.get(word, -2.0)


def likelihoods(body: dict[str, Any]) -> list[Any]:
    """Each word a token; a word that names the colour of the first image is likely."""
    words, colour = lay_out(body)
    told: list[Any] = [None]
    for word in words[1:]:
        likely = find_logprob(word, colour)
        told.append({str(hash(word)): {"logprob": likely, "rank": 1, "decoded_token": word}})
    return told


def lay_out(body: dict[str, Any]) -> tuple[list[str], str]:
    """The words of a prompt, and the colour of its first image."""
    messages = body["messages"]
    words = ["<s>"]
    colour = "none"
    for message in messages:
        words.append(f"{message['role']}:")
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                words += part["text"].split()
            else:
                colour, _ = look(part)
                words += ["<image>"] * 3
        words += ["<end>", "\n"]
    if body.get("continue_final_message") and "logprob_token_ids" in body:
        words = words[:-2]
    if body["add_generation_prompt"]:
        words.append("assistant:")
    return words, colour


def say(page: Page, status: int, body: Any, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    page.answer(
        status,
        {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers},
        content,
    )


def fail(status: int, message: str = "no luck", **headers: str) -> Trouble:
    return lambda page: say(page, status, {"error": {"message": message}}, **headers)


def close_early(page: Page) -> None:
    page.answer(200, {"Content-Type": "application/json", "Content-Length": "1000"}, b'{"choices": [')
    page.wfile.flush()
    page.close_connection = True


def hang(page: Page) -> None:
    page.server.closing.wait(30)


def stream_and_break(page: Page) -> None:
    page.send_response(200)
    page.send_header("Content-Type", "text/event-stream")
    page.end_headers()
    for event in list(pieces("I see something"))[:3]:
        page.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
    page.wfile.flush()
    page.close_connection = True


@contextmanager
def open_server(owner: str = "library") -> Iterator[OpenAIServer]:
    with open_site() as site:
        yield OpenAIServer(site, owner)
