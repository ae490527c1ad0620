"""The texts of the workloads: captions of the shots, questions, labels like the names of classes.

Also the corpus for the tokenizer of random checkpoints.
"""

from __future__ import annotations

import random
from itertools import product

CAPTIONS = (
    "A brown dog is running on the beach with a red ball in its mouth.",
    "Two children in yellow coats are waiting for the bus in the rain.",
    "An old stone bridge crosses a narrow river between green hills.",
    "A plate of pasta with tomatoes stands next to a glass of water.",
    "A man on a bicycle is looking back at the traffic behind him.",
    "Snow lies on the roofs of a small village below the mountains.",
    "A white cat is asleep on the keyboard of an open laptop.",
    "Several boats with blue sails are racing close to the shore.",
    "A woman in a long black dress is playing the cello on a stage.",
    "The night market is full of people, lamps and smoke.",
    "A wooden table with four chairs stands under an apple tree.",
    "A train is leaving the station while a guard waves a flag.",
)
QUESTIONS = (
    "What is in the foreground?",
    "What colour is the largest object?",
    "How many people can be seen?",
    "Is it day or night?",
    "What is the weather like?",
    "Where was this picture taken?",
    "What is the person on the left doing?",
    "Is there an animal in the image?",
    "What is written on the sign?",
    "Which season is it?",
    "What is the object in the middle made of?",
    "Does the scene look calm or busy?",
    "What could happen next?",
    "Is anything in the image broken or unusual?",
    "What is behind the main subject?",
    "Would you call this a photograph or a drawing?",
)
KINDS = (
    *("golden", "arctic", "great white", "red", "black", "spotted", "grey", "common", "giant", "dwarf"),
    *("mountain", "desert", "river", "forest", "sea", "garden", "house", "king", "snow", "tiger"),
    *(
        "long haired",
        "short haired",
        "wild",
        "striped",
        "bald",
        "blue",
        "yellow",
        "silver",
        "african",
        "asian",
    ),
)
NOUNS = (
    *("retriever", "fox", "shark", "owl", "salamander", "heron", "lizard", "beetle", "otter", "terrier"),
    *("eagle", "hare", "tortoise", "crab", "butterfly", "snail", "wolf", "squirrel", "finch", "mackerel"),
    *("orchid", "daisy", "pine", "mushroom", "lily", "thistle", "acorn", "maple", "cabbage", "pepper"),
    *("teapot", "lantern", "barrel", "violin", "tractor"),
)
MAX_LABELS = len(KINDS) * len(NOUNS)
_OFTEN = 4


def list_labels(count: int) -> tuple[str, ...]:
    """The first `count` labels of one fixed shuffle, so that a short list is the beginning of a long one."""
    labels = [f"{kind} {noun}" for kind, noun in product(KINDS, NOUNS)]
    random.Random(5).shuffle(labels)
    assert count <= len(labels), f"there are {len(labels)} labels"
    return tuple(labels[:count])


def list_corpus() -> list[str]:
    """Text for a tokenizer. The nouns of the labels are rare, so that they become several tokens."""
    often = [*CAPTIONS, *QUESTIONS, *(f" a photo of a {kind} thing." for kind in KINDS)]
    return often * _OFTEN + [f" {noun}" for noun in NOUNS]
