"""Workloads are what the table says, the same each time, and warming up leaves nothing behind."""

from __future__ import annotations

from collections import Counter

import pytest

from idefics_cli.bench.corpus import list_corpus, list_labels
from idefics_cli.bench.workloads import LONGEST, WORKLOADS, compose_work
from idefics_cli.models.random.tokenizer import build_tokenizer
from idefics_cli.values import Style, list_sources


@pytest.mark.parametrize("style", ["completion", "chat"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_requests_are_as_many_as_the_table_says(name: str, style: Style) -> None:
    workload = WORKLOADS[name]
    work = compose_work(workload, style, images=5, new_tokens=3)
    assert len(work.requests) == 5 * (workload.questions or 1)
    assert {source for request in work.requests for source in list_sources(request.prompt)} == set(work.images)
    assert len({image.digest for image in work.images.values()}) == len(work.images)
    for request in work.requests:
        assert 1 <= request.decoding.max_new_tokens <= 3 * LONGEST * workload.longer
        assert request.decoding.num_beams == 1
        assert request.decoding.stop == ()
        assert len(request.choices) in {workload.labels, 10 * workload.is_mixed}
        if not workload.is_mixed:
            assert len(list_sources(request.prompt)) == 1 + workload.shots
    if workload.is_mixed:
        assert len({request.task for request in work.requests}) == 5


def test_a_seed_changes_the_pictures_and_nothing_else() -> None:
    works = [compose_work(WORKLOADS["caption-4"], "chat", images=2, new_tokens=3, seed=seed) for seed in (0, 0, 1)]
    assert works[0].requests == works[1].requests == works[2].requests
    digests = [{image.digest for image in work.images.values()} for work in works]
    assert digests[0] == digests[1]
    assert not digests[0] & digests[2]


def test_labels_are_like_the_names_of_classes() -> None:
    labels = list_labels(1000)
    assert len(set(labels)) == 1000
    assert list_labels(20) == labels[:20]
    tokenizer = build_tokenizer(4099, list_corpus(), bos="<s>", added=("<a>", "<b>", "<c>"))
    sizes = Counter(len(tokenizer(f" {label}")["input_ids"]) for label in labels)
    assert set(sizes) == {2, 3, 4, 5}
    beginnings = Counter(label.split()[0] for label in labels[:20])
    assert beginnings.most_common(1)[0][1] > 1, "some begin alike"


def test_answers_are_alike_log_normal_or_one_is_long() -> None:
    lengths = {
        name: [
            request.decoding.max_new_tokens
            for request in compose_work(WORKLOADS[name], "chat", images=64, new_tokens=8).requests
        ]
        for name in ("caption-0", "lengths", "one-long")
    }
    assert set(lengths["caption-0"]) == {8}
    assert lengths["one-long"] == [32 * LONGEST, *[32] * 63]
    assert len(set(lengths["lengths"])) > 10
    assert 20 <= sorted(lengths["lengths"])[32] <= 48
