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
_ENDS = (".", ".", ".", "!", "?")


def compose_sentences(count: int, generator: torch.Generator) -> str:
    """Compose sentences, one a line.

    A sentence is a subject, a verb and an object. A noun may have an adjective before it and a
    clause after it, whose verb and whose sentence's verb both agree with their subjects in number:
    what a token depends on may lie dozens of characters before it.

    Example:
        >>> from dgm_fast.training.data import make_generator
        >>> print(compose_sentences(2, make_generator(3)), end="")  # doctest: +ELLIPSIS
        The ...
        The ...
    """
    # One draw of all choices, and more than enough: a sentence takes at most 20.
    draws = torch.rand(count, 24, generator=generator).tolist()
    return "".join(_sentence(iter(each)) for each in draws)


def _sentence(draws: Iterator[float]) -> str:
    subject, plural = _noun_phrase(draws, clauses=1)
    verb = _choice(_VERBS, draws)[plural]
    what, _ = _noun_phrase(draws, clauses=1)
    words = f"{subject} {verb} {what}"
    return f"{words[0].upper()}{words[1:]}{_choice(_ENDS, draws)}\n"


def _noun_phrase(draws: Iterator[float], clauses: int) -> tuple[str, int]:
    """Return the words and whether they are plural."""
    plural = int(next(draws) < 0.5)
    words = ["the"]
    if next(draws) < 0.4:
        words.append(_choice(_ADJECTIVES, draws))
    words.append(_choice(_NOUNS, draws)[plural])
    if clauses and next(draws) < 0.4:
        what, _ = _noun_phrase(draws, clauses=0)
        words += ["that", _choice(_VERBS, draws)[plural], what]
    return " ".join(words), plural


def _choice(options: tuple[Any, ...], draws: Iterator[float]) -> Any:
    return options[int(next(draws) * len(options))]
