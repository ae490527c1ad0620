"""Differences in wording that do not count: for exact match, for VQA accuracy, and in the words of a caption."""

from __future__ import annotations

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED_DIGITS = re.compile(r"\d,\d")
_PERIODS = re.compile(r"\.(?!\d)")
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
"""Contractions by the same with one apostrophe left out, and the one that the official table has backwards."""

_WORDS = re.compile(
    r"\d+(?:[.,:/]\d+)+"  # 1,000 and 3.5 and 10:30
    r"|(?:[^\W\d_]\.){2,}"  # u.s.
    r"|\w+?(?=n't\b)|n't\b"
    r"|'(?:s|m|d|ll|re|ve)\b"
    r"|\w+(?:[-&/]\w+)*?(?=n't\b)|\w+(?:[-&/]\w+)*"
    r"|\S"
)
_DROPPED = {*"'`.?!,:-;\"()[]{}", "''", "``", "--", "..."}


def normalise_exact(text: str) -> str:
    """An answer without differences of case and spaces, and without the full stop at its end."""
    return " ".join(text.split()).casefold().rstrip(".")


def normalise_vqa(answer: str) -> str:
    """An answer as VQA accuracy compares it: punctuation, numbers as words, articles and contractions.

    The rules of the official evaluation (visualqa.org/evaluation.html, `vqaEval.py` of GT-Vision-Lab/VQA), applied to
    every answer and reference, also where all references agree.
    """
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    has_grouped = _GROUPED_DIGITS.search(answer) is not None
    bare = answer
    for mark in _PUNCTUATION:
        if mark in bare:
            is_apart = has_grouped or f"{mark} " in answer or f" {mark}" in answer
            bare = bare.replace(mark, "" if is_apart else " ")
    words = (_NUMBERS.get(word, word) for word in _PERIODS.sub("", bare).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def split_words(caption: str) -> list[str]:
    """The words of a caption in lower case, without punctuation.

    A Python likeness of the Penn Treebank tokeniser that coco-caption runs in Java (`ptbtokenizer.py`, which drops the
    same marks): contractions are split, hyphens stay. Unusual captions may be split differently there.
    """
    text = caption.lower()
    bare = text.rstrip(" .")
    if bare.isascii() and bare.replace(" ", "").isalnum():  # as most are, and three times as fast
        return bare.split()
    return [word for word in _WORDS.findall(text.replace("\u2019", "'")) if word not in _DROPPED]
