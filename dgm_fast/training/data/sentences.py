"""Sentences of a small grammar: a text that needs no file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["compose_sentences"]

_ADJECTIVES = ("old", "small", "quiet", "clever", "hungry", "yellow", "gentle", "tired")
# Singular and plural.
_NOUNS = (
    ("fox", "foxes"), ("king", "kings"), ("child", "children"), ("river", "rivers"),
    ("sailor", "sailors"), ("mouse", "mice"), ("tree", "trees"), ("baker", "bakers"),
)  # fmt: skip
_VERBS = (
    ("sees", "see"), ("follows", "follow"), ("loves", "love"), ("finds", "find"),
    ("knows", "know"), ("hears", "hear"), ("paints", "paint"), ("remembers", "remember"),
)  # fmt: skip


def compose_sentences(count: int, generator: torch.Generator) -> str:
    """Compose sentences, one a line.

    A sentence says what a subject does to an object, and that the object does the same: its second
    half follows from the first. A noun may have an adjective before it, and the subject a clause
    after it; verbs agree with their subjects in number. So what a character depends on may lie
    dozens of characters before it, further back than counts can tell.

    Example:
        >>> from dgm_fast.training.data import make_generator
        >>> print(compose_sentences(2, make_generator(3)), end="")  # doctest: +ELLIPSIS
        The ...
        The ...
    """
    # One draw of all choices, and more than enough: a sentence takes at most 15.
    draws = torch.rand(count, 16, generator=generator).tolist()
    return "".join(_sentence(iter(each)) for each in draws)


def _sentence(draws: Iterator[float]) -> str:
    subject, whole_subject, plural = _noun_phrase(draws, clause=True)
    thing, whole_thing, plural_thing = _noun_phrase(draws, clause=False)
    verb = _choice(_VERBS, draws)
    first = f"{whole_subject} {verb[plural]} {whole_thing}"
    second = f"the {thing} {verb[plural_thing]} the {subject}"
    return f"{first[0].upper()}{first[1:]}, and {second}.\n"


def _noun_phrase(draws: Iterator[float], *, clause: bool) -> tuple[str, str, int]:
    """Return the noun, it with all that belongs to it, and whether it is plural."""
    plural = int(next(draws) < 0.5)
    noun = _choice(_NOUNS, draws)[plural]
    words = ["the", noun]
    if next(draws) < 0.4:
        words.insert(1, _choice(_ADJECTIVES, draws))
    if clause and next(draws) < 0.3:
        _, what, _ = _noun_phrase(draws, clause=False)
        words += ["that", _choice(_VERBS, draws)[plural], what]
    return noun, " ".join(words), plural


def _choice(options: tuple[Any, ...], draws: Iterator[float]) -> Any:
    return options[int(next(draws) * len(options))]
