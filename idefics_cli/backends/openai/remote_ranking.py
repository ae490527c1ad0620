"""Labels ranked by one server: with a walk through their tokens if it supports that, else each as a whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ...errors import ItemError, ModelError, PromptError, ServerLost
from ...lru import LRUCache
from ...ranking import normalize, rank
from ...values import Answer, Request, Usage, drop_images
from .client import Connection
from .label_tree import (
    CannotWalk,
    LabelTree,
    build_tree,
    read_step,
    split_children,
    write_step,
    write_tokenizations,
)
from .logprobs import add_up, read_tokens, split_choices, write_rankings
from .reply import read_usage

LABEL_SETS = 64
"""Sets of labels whose tokens, and scores without an image, are kept."""
_log = logging.getLogger(__name__)
T = TypeVar("T")


class RemoteRanking:
    """Ranks the choices of requests through the server of a connection."""

    def __init__(self, connection: Connection, checkpoint: str) -> None:
        self._connection = connection
        self._checkpoint = checkpoint
        self._walks = True
        self._asking_prior = asyncio.Lock()
        self._trees: LRUCache[Any, LabelTree] = LRUCache(LABEL_SETS)
        self._priors: LRUCache[Any, list[float]] = LRUCache(LABEL_SETS)

    async def rank(self, request: Request, urls: Mapping[str, str]) -> Answer:
        labels, usage = await self._read_labels(request, urls)
        prior: list[float] = []
        if request.normalize == "pmi":
            if not urls:
                raise PromptError(
                    "pmi compares a prompt with the same one without its images, and this one has none",
                    code="no_image",
                    hint="rank with --normalize none or tokens",
                )
            prior = await self._find_prior(request)
        scores = rank(request.choices, normalize(add_up(labels), request.normalize, labels, prior))
        return Answer(text=scores[0].label, scores=scores, usage=usage)

    async def _find_prior(self, request: Request) -> list[float]:
        """The scores of labels without the images, asked once for all images."""
        blind = drop_images(request.prompt)
        key = (blind, request.choices)
        async with self._asking_prior:
            prior = self._priors.find(key)
            if prior is None:
                prior = add_up((await self._read_labels(replace(request, prompt=blind), {}))[0])
                self._priors.keep(key, prior)
        return prior

    async def _read_labels(self, request: Request, urls: Mapping[str, str]) -> tuple[list[Any], Usage]:
        """The tokens of each choice, with a walk if the server supports it."""
        if self._walks:
            try:
                return await self._walk(request, urls)
            except CannotWalk:
                _log.debug(
                    "%s does not return log-probabilities of chosen tokens; labels are asked one by one",
                    self._checkpoint,
                )
                self._walks = False
        # One at a time: each of them is this request's share of the server.
        rows, usage = [], Usage()
        for body in write_rankings(request, urls):
            answer = await self._connection.post("chat/completions", {"model": self._checkpoint, **body})
            rows.append(read_tokens(answer))
            usage = read_usage(answer)
        return split_choices(rows), usage

    async def _walk(self, request: Request, urls: Mapping[str, str]) -> tuple[list[Any], Usage]:
        """All steps of the tree at once, after the first, which puts the prompt into the server's cache."""
        tree = await self._find_tree(request)
        first, *others = tree.list_steps().items()
        usage = Usage()

        async def ask(path: tuple[int, ...], children: list[int]) -> dict[int, float]:
            nonlocal usage
            told: dict[int, float] = {}
            for some in split_children(children):
                body = write_step(request, urls, tree.texts.get(path, ""), some)
                reply = await self._connection.post("chat/completions", {"model": self._checkpoint, **body})
                told |= read_step(reply, path, some)
                usage = read_usage(reply) if not path else usage
            return told

        logprobs = {first[0]: await ask(*first)}
        told = await _gather(ask(*step) for step in others)
        logprobs |= {path: one for (path, _), one in zip(others, told, strict=True)}
        return tree.score(logprobs), replace(usage, new_tokens=0)

    async def _find_tree(self, request: Request) -> LabelTree:
        """The server's tokens of labels, which are the same for all images."""
        key = (drop_images(request.prompt), request.choices)
        tree = self._trees.find(key)
        if tree is None:
            bodies = [{"model": self._checkpoint, **body} for body in write_tokenizations(request)]
            try:
                replies = await _gather(self._connection.post("tokenize", body, is_of_api=False) for body in bodies)
            except ServerLost:
                raise
            except (ModelError, ItemError) as error:
                raise CannotWalk from error
            tree = build_tree(request, replies)
            self._trees.keep(key, tree)
        return tree


async def _gather(works: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all of them; the first failure is raised once all of them have ended."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return [one for one in results if not isinstance(one, BaseException)]
