"""Benchmarks by name: their datasets as items with shots and as references, for the path that every command takes."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from ..config import configs_folder, exists, read_yaml, user_folder
from ..errors import UsageError, describe_problems
from ..files import write_file
from ..prompts.templates import Strict, Template

KEPT_FOR_SHOTS = 64
"""If shots come from the split itself, its first rows, so many, are never asked."""
SHOT_POOL = 1000
"""Shots are drawn from so many rows at most: a split is read as a stream."""
MAX_ROWS = 1_000_000


class Columns(Strict):
    """Which column of a dataset holds which part of a sample."""

    id: str | None = None
    images: list[str]
    """Files in the dataset, or http addresses; what is empty is no image."""
    text: str | None = None
    answers: str
    options: str | None = None
    """Of a question with lettered options; the answer is a letter."""


class Benchmark(Strict):
    """One entry of benchmarks.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    dataset: str
    config: str | None = None
    split: str
    shots_split: str | None = None
    task: Literal["caption", "vqa", "classify"]
    template: str | dict[str, Any]
    """A name, or a template of its own."""
    columns: Columns
    field: str = "question"
    """The field of the template that the text is for."""
    labels: list[str] | None = None
    """What is ranked; a number in the answers is one of them. Those of the dataset if not given."""
    positive: str | None = None
    metric: str
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Values, times 100, by model and number of shots."""
    source: str

    @field_validator("template")
    @classmethod
    def _whole_template(cls, template: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(template, dict):
            Template.model_validate(template)
        return template


class Draw(NamedTuple):
    """Which part of a benchmark is asked, and with which shots."""

    limit: int | None = None
    shots: int = 0
    seed: int = 0
    without_image: bool = False
    data: Path | None = None
    """A folder with the dataset, instead of the one on the hub."""

    @property
    def name(self) -> str:
        """The name of these shots in `published`."""
        return f"{self.shots} without images" if self.without_image else str(self.shots)


class BenchmarkFiles(NamedTuple):
    """The files of a benchmark: lines for `idefics batch`, and the references."""

    items: Path
    references: Path


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a dataset, as this program sees it."""

    id: str
    images: tuple[bytes | str, ...]
    text: str
    answers: tuple[str, ...]
    labels: tuple[str, ...]


def load_benchmarks() -> dict[str, Benchmark]:
    """Every benchmark by name. The user's benchmarks.yaml comes before the packaged one and wins."""
    found: dict[str, Benchmark] = {}
    for path in (user_folder() / "benchmarks.yaml", configs_folder() / "benchmarks.yaml"):
        if not exists(path):
            continue
        try:
            entries = TypeAdapter(dict[str, Benchmark]).validate_python(read_yaml(path) or {})
        except ValidationError as error:
            raise UsageError(f"{path}: {describe_problems(error)}") from error
        found = entries | found
    return found


def prepare(name: str, benchmark: Benchmark, draw: Draw, cache: Path) -> BenchmarkFiles:
    """Fetch the items and write them to files, unless they are there. Raises UsageError if that fails."""
    # Whatever the limit, an item is the same one: a run of more goes on with the rows of fewer.
    data = None if draw.data is None else draw.data.resolve()
    same = json.dumps(
        [benchmark.model_dump(mode="json"), *map(str, draw._replace(limit=None, data=data))], sort_keys=True
    )
    folder = cache / "benchmarks" / f"{name}-{hashlib.sha256(same.encode()).hexdigest()[:12]}"
    part = "all" if draw.limit is None else str(draw.limit)
    prepared = BenchmarkFiles(folder / f"items-{part}.jsonl", folder / f"references-{part}.jsonl")
    if draw.data is None and prepared.references.exists():  # a folder may hold something else by now
        return prepared
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        if isinstance(benchmark.template, dict):
            write_file(folder / "template.yaml", json.dumps(benchmark.template).encode())
        asked = _open_split(benchmark, benchmark.split, draw.data)
        shots = _draw_shots(benchmark, asked, draw, folder)
        begin = KEPT_FOR_SHOTS if benchmark.shots_split is None else 0
        samples = islice(asked, begin, begin + (draw.limit or MAX_ROWS))
        references = []
        with prepared.items.open("w", encoding="utf-8") as items:
            for sample in samples:
                items.write(_to_line(_to_item(benchmark, sample, shots, folder)))
                references.append(_to_line({"id": sample.id, "answers": sample.answers}))
        if not references:
            raise UsageError(
                f"no question in {benchmark.split} of {draw.data or benchmark.dataset} can be asked",
                hint=f"it needs more than {begin} rows" if begin else "name another --data FOLDER",
            )
        # Last: where the references are, all is.
        write_file(prepared.references, "".join(references).encode())
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}", hint="set IDEFICS_CACHE_DIR") from error
    return prepared


def _draw_shots(benchmark: Benchmark, asked: Samples, draw: Draw, folder: Path) -> list[dict[str, Any]]:
    """The shots, the same for every item, so that their prefix is computed once."""
    if not draw.shots:
        return []
    source = asked
    if benchmark.shots_split is not None:
        source = _open_split(benchmark, benchmark.shots_split, draw.data)
    pool = list(islice(source, SHOT_POOL if benchmark.shots_split is not None else KEPT_FOR_SHOTS))
    if len(pool) < draw.shots:
        raise UsageError(f"there are {len(pool)} rows to draw shots from", hint=f"write --shots {len(pool)} or fewer")
    random = Random(draw.seed)
    return [_to_shot(benchmark, sample, random, draw, folder) for sample in random.sample(pool, draw.shots)]


def _to_shot(benchmark: Benchmark, sample: Sample, random: Random, draw: Draw, folder: Path) -> dict[str, Any]:
    """A shot: the answer that most annotators gave, or one of the captions."""
    most = Counter(sample.answers).most_common(1)[0][0]
    answer = random.choice(sample.answers) if benchmark.task == "caption" else most
    images = [] if draw.without_image else _keep_images(sample, folder, "shot-")
    return {"images": images, **_to_fields(benchmark, sample), "answer": answer}


def _to_item(benchmark: Benchmark, sample: Sample, shots: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": sample.id,
        "task": benchmark.task,
        "template": benchmark.template if isinstance(benchmark.template, str) else "template.yaml",
        "images": _keep_images(sample, folder),
        "fields": _to_fields(benchmark, sample),
        "examples": shots,
    }
    return item | ({"labels": sample.labels} if benchmark.task == "classify" else {})


def _to_fields(benchmark: Benchmark, sample: Sample) -> dict[str, str]:
    return {benchmark.field: sample.text} if benchmark.columns.text is not None else {}


def _keep_images(sample: Sample, folder: Path, prefix: str = "") -> list[str]:
    """The images of a sample as items name them; those stored in the dataset become files."""
    names = []
    for image in sample.images:
        if isinstance(image, str):
            names.append(image)
            continue
        name = f"images/{prefix}{hashlib.sha256(image).hexdigest()[:20]}"
        if not (folder / name).exists():
            (folder / name).write_bytes(image)
        names.append(name)
    return names


class Samples:
    """The rows of a split as a stream, always from the first one."""

    def __init__(self, benchmark: Benchmark, rows: Iterable[Mapping[str, Any]], labels: tuple[str, ...]) -> None:
        self._benchmark, self._rows, self._labels = benchmark, rows, labels

    def __iter__(self) -> Iterator[Sample]:
        rows = iter(self._rows)
        number = 0
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # whatever a reader of files of others raises
                raise _cannot_read(self._benchmark, error) from error
            if row is None:
                return
            number += 1
            try:
                sample = read_sample(self._benchmark, row, number, self._labels)
            except (LookupError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise UsageError(
                    f"row {number} of {self._benchmark.dataset} is not as benchmarks.yaml says: {error!r}",
                    hint="write its columns into your own benchmarks.yaml",
                ) from error
            if sample is not None:
                yield sample


def read_sample(benchmark: Benchmark, row: Mapping[str, Any], number: int, labels: tuple[str, ...]) -> Sample | None:
    """A row as a sample; None if it cannot be asked here, such as a choice without its options."""
    columns = benchmark.columns
    text = "" if columns.text is None else str(row[columns.text])
    if columns.options is not None:
        options = row[columns.options]
        options = ast.literal_eval(options) if isinstance(options, str) else list(options)
        if not options:
            return None
        labels = tuple(chr(ord("A") + place) for place in range(len(options)))
        text = "\n".join([text, *(f"{letter}. {option}" for letter, option in zip(labels, options, strict=True))])
    given = row[columns.answers]
    answers = tuple(
        labels[one] if isinstance(one, int) and labels else _read_text(one)
        for one in (given if isinstance(given, list) else [given])
    )
    if not answers:
        raise ValueError(f"{columns.answers} is empty")
    id = row[columns.id] if columns.id is not None else number
    images = tuple(_read_image(row[name]) for name in columns.images if row.get(name) is not None)
    return Sample(str(id), images, text, answers, labels)


def _read_text(value: Any) -> str:
    """An answer as text: a string, or inside an object as annotators' answers are."""
    if isinstance(value, Mapping):
        value = next(value[name] for name in ("answer", "raw", "caption", "text") if name in value)
    return str(value)


def _read_image(value: Any) -> bytes | str:
    """The bytes of an image, or its http address. A path in a dataset is never opened."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return value
    raise ValueError("its image is neither in the dataset nor an http address")


def _open_split(benchmark: Benchmark, split: str, data: Path | None) -> Samples:
    """A split as a stream. Raises UsageError if the library or the dataset is missing."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "benchmarks by name need the package datasets", hint="pip install 'idefics-cli[eval]'"
        ) from error
    datasets.disable_progress_bars()
    try:
        opened = datasets.load_dataset(
            str(data or benchmark.dataset), None if data else benchmark.config, split=split, streaming=True
        ).decode(False)
        names = getattr((opened.features or {}).get(benchmark.columns.answers), "names", None) or ()
    except Exception as error:  # of the network, of the file formats, of the dataset's own description
        raise _cannot_read(benchmark, error) from error
    labels = benchmark.labels or [name.partition(",")[0] for name in names]
    return Samples(benchmark, opened, tuple(labels))


def _cannot_read(benchmark: Benchmark, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UsageError(
        f"cannot read {benchmark.dataset}: {reason}",
        hint="--data FOLDER takes a copy of it in the same layout",
    )


def _to_line(value: Mapping[str, Any]) -> str:
    return f"{json.dumps(value, ensure_ascii=False)}\n"
