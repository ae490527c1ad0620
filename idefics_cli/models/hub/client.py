"""Requests to a hub: the files of a repository, and their bytes.

Names in an answer are checked, and sizes bounded, before either becomes a path or a file. Where files are kept is up to
`download`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import quote

import httpx2
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, validate_repo_id  # type: ignore[attr-defined]  # re-exported
from pydantic import BaseModel, Field, ValidationError

from ...errors import ModelError, describe_problems
from ...http_retry import Retry, Transient, is_transient, parse_retry_after
from .errors import COMMIT, ETAG

ANSWER_BYTES = 50_000_000
"""The longest list of files that is read."""
RETRY = Retry(attempts=4, backoff_seconds=0.5, max_retry_after_seconds=60.0)
_CHECK = "run the same command again, or check HF_ENDPOINT"
_SLOWEST_BYTES = 10_000
"""What has to come within the time that an answer may take: less is a server that is too slow."""


class RepoFile(BaseModel):
    """A file of a repository."""

    rfilename: str
    size: Annotated[int, Field(ge=0, strict=True)]


class WeightCount(BaseModel):
    """What the hub counted in the headers of the weights."""

    total: Annotated[int, Field(gt=0, strict=True)]


class RepoListing(BaseModel):
    """A revision of a repository: its commit, its files, and how many weights it has."""

    sha: Annotated[str, Field(pattern=f"^{COMMIT.pattern}$")]
    siblings: list[RepoFile]
    safetensors: WeightCount | None = None

    @property
    def parameters(self) -> int | None:
        return None if self.safetensors is None else self.safetensors.total


def list_repo(repo: str, revision: str) -> RepoListing:
    """Ask the hub for a revision. Raises ModelError."""
    validate_repo_id(repo)
    url = f"{constants.ENDPOINT}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    content = bytearray()

    async def ask() -> None:
        content.clear()
        try:
            async with _open(url, repo, revision) as response:
                await _pour(response, ANSWER_BYTES, content.extend, f"the list of files of {repo}")
        except Transient as transient:
            if isinstance(transient.error, httpx2.ConnectError | httpx2.ConnectTimeout):
                raise transient.error from transient  # at once: there may be no network
            raise

    asyncio.run(RETRY.ask(ask))
    try:
        return RepoListing.model_validate_json(bytes(content))
    except (ValidationError, RecursionError) as error:
        problems = describe_problems(error) if isinstance(error, ValidationError) else "nested too deeply"
        raise ModelError(
            f"the hub does not say what {repo} has ({problems[:200]})", hint="check HF_ENDPOINT"
        ) from error


async def fetch_file(
    repo: str,
    commit: str,
    name: str,
    size: int,
    *,
    begin: int,
    on_open: Callable[[str, int], bool],
    on_piece: Callable[[bytes], None],
) -> None:
    """Fetch a file of known size, starting at a byte.

    `on_open` gets the ETag and the first byte that will come, and returns whether they are wanted. Raises Transient or
    ModelError.
    """
    url = huggingface_hub.hf_hub_url(repo, name, revision=commit)
    headers = {"Range": f"bytes={begin}-"} if begin else {}

    async with _open(url, repo, commit, headers) as response:
        tag = _read_tag(response)
        first = begin if response.status_code == 206 else 0
        if first and not response.headers.get("Content-Range", "").startswith(f"bytes {first}-"):
            raise ModelError(f"the hub sends another part of {name} than was asked for", hint=_CHECK)
        if on_open(tag, first):
            count = await _pour(response, size - first, on_piece, name)
            if first + count < size:
                short = f"the hub sends less of {name} than the {size:,} bytes it has"
                raise Transient(ModelError(short, hint=_CHECK))


@asynccontextmanager
async def _open(
    url: str, repo: str, revision: str, headers: dict[str, str] | None = None
) -> AsyncIterator[httpx2.Response]:
    """A successful response, its body unread. Raises Transient or ModelError."""
    # Nothing compressed: sizes are of what arrives.
    wanted = {**build_hf_headers(), "Accept-Encoding": "identity", **(headers or {})}
    seconds = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    try:
        async with huggingface_hub.get_async_session() as client:
            request = client.build_request("GET", url, headers=wanted, timeout=seconds)
            async with asyncio.timeout(3 * seconds):
                response = await client.send(request, stream=True, follow_redirects=True)
            try:
                if response.status_code not in (200, 206):
                    raise _explain_status(response, repo, revision)
                yield response
            finally:
                await response.aclose()
    except httpx2.UnsupportedProtocol as error:
        raise ModelError(f"the hub redirects {repo} to an address that is not http", hint=_CHECK) from error
    except httpx2.TooManyRedirects as error:
        raise ModelError(f"the hub redirects {repo} too often", hint=_CHECK) from error
    except TimeoutError as error:
        raise ModelError(f"the hub sends {repo} too slowly", hint=_CHECK) from error
    except httpx2.TransportError as error:
        raise Transient(error) from error


async def _pour(response: httpx2.Response, limit: int, take: Callable[[bytes], None], what: str) -> int:
    """Pass on the bytes of a body, which must be neither too long nor too slow. Returns their number."""
    pieces = response.aiter_bytes()
    total = 0
    while True:
        goal = total + _SLOWEST_BYTES
        async with asyncio.timeout(3 * constants.HF_HUB_DOWNLOAD_TIMEOUT):
            while total < goal:
                piece = await anext(pieces, None)
                if piece is None:
                    return total
                total += len(piece)
                if total > limit:
                    raise ModelError(f"the hub sends more of {what} than {limit:,} bytes", hint=_CHECK)
                take(piece)


def _read_tag(response: httpx2.Response) -> str:
    """The ETag of a file. Raises ModelError if it is not a plain name."""
    chain = (*response.history, response)
    commits = [one.headers["X-Repo-Commit"] for one in chain if "X-Repo-Commit" in one.headers]
    if bad := [one for one in commits if not COMMIT.fullmatch(one)]:
        raise refuse_name(response, "commit", bad[0])
    linked = [one.headers["X-Linked-ETag"] for one in chain if "X-Linked-ETag" in one.headers]
    tag = linked[0] if linked else response.headers.get("ETag", "")
    name = tag.removeprefix("W/").strip('"')
    if not ETAG.fullmatch(name):
        raise refuse_name(response, "ETag", tag)
    return name


def refuse_name(response: httpx2.Response, what: str, value: str) -> ModelError:
    return ModelError(
        f"the hub at {response.url.host} names {value[:60]!a} as {what}, which is not one",
        hint="nothing was written; check HF_ENDPOINT",
    )


def _explain_status(response: httpx2.Response, repo: str, revision: str) -> Exception:
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        hint = f"ask for access at https://huggingface.co/{repo}, then run `hf auth login`"
        return ModelError(f"{repo} is gated", hint=hint)
    if code == "RevisionNotFound":
        return ModelError(f"{repo} has no revision {revision}", hint="`--revision main` is the latest one")
    if code == "EntryNotFound":
        return ModelError(f"{repo} lacks a file that its list names", hint=_CHECK)
    if code == "RepoNotFound" or status in (401, 404):
        hint = "check the name, or `hf auth login` if private"
        return ModelError(f"there is no checkpoint {repo} on the hub", hint=hint)
    if status == 403:
        hint = "run `hf auth login` with an account that may read it"
        return ModelError(f"the hub denies you access to {repo}", hint=hint)
    refused = ModelError(f"the hub refused {repo} with status {status}", hint="try again later")
    if is_transient(status):
        return Transient(refused, parse_retry_after(response.headers.get("Retry-After")))
    return refused
