"""Data sets of text: characters or bytes, cut into segments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dgm_fast.training.data.dataset import STATIC_SEED, Dataset, make_generator
from dgm_fast.training.data.sentences import compose_sentences

__all__ = ["Alphabet", "TextDataset", "load_sentences", "load_shakespeare", "make_text"]

SHAKESPEARE = "tinyshakespeare.txt"


@dataclass(frozen=True)
class Alphabet:
    """What tokens stand for.

    Attributes:
        characters: token k is the k-th of these; empty: tokens are the bytes of UTF-8.

    Example:
        >>> alphabet = Alphabet.of("hello")
        >>> alphabet.characters, alphabet.encode("hole").tolist()
        ('ehlo', [1, 3, 2, 0])
        >>> alphabet.decode(torch.tensor([1, 0, 2, 2, 3]))
        'hello'
    """

    characters: str = ""

    @classmethod
    def of(cls, text: str) -> Alphabet:
        """Return the alphabet of all characters of a text, in the order of their codes."""
        return cls("".join(sorted(set(text))))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.characters) or 256

    @property
    def unit(self) -> str:
        """What a token is, in short."""
        return "char" if self.characters else "byte"

    def encode(self, text: str) -> Tensor:
        """Return the tokens (T,) of a text, int64.

        Raises:
            ValueError: a character is not of the alphabet.
        """
        if not self.characters:
            return torch.tensor(list(text.encode()), dtype=torch.int64)
        places = {character: place for place, character in enumerate(self.characters)}
        unknown = sorted(set(text) - places.keys())
        if unknown:
            raise ValueError(
                f"text must be of the characters {self.characters!r}; got {''.join(unknown)!r}"
            )
        return torch.tensor([places[character] for character in text], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Return the text of tokens (T,); bytes that are no UTF-8 become U+FFFD."""
        if not self.characters:
            return bytes(tokens.tolist()).decode(errors="replace")
        return "".join(self.characters[token] for token in tokens.tolist())


@dataclass(frozen=True)
class TextDataset(Dataset):
    """Hold segments of a text as tokens.

    Shapes:
        `train`: (N, 2 T) windows, of which `draw` takes crops (B, T) of any beginning; `validation`
        and `test`: (N, T) segments, none of which overlaps another. All are int64.

    Attributes:
        alphabet: what the tokens stand for.
    """

    alphabet: Alphabet = Alphabet()

    @property
    def view(self) -> str:
        """The tokens and the segments, in words."""
        kind = "characters" if self.alphabet.characters else "bytes"
        return f"{self.levels} {kind}, segments of {self.features}"

    @property
    def unit(self) -> str:
        """A character or a byte."""
        return self.alphabet.unit

    def training_text(self) -> Tensor:
        """Return the tokens (S,) of the training text, in one piece."""
        return torch.cat(
            [self.train[:, : self.features].flatten(), self.train[-1, self.features :]]
        )


def make_text(
    name: str,
    splits: tuple[str, str, str],
    segment: int,
    tokens: Literal["characters", "bytes"] = "characters",
) -> TextDataset:
    """Make a data set of three texts: to train on, to validate and to test.

    The characters are those of all three. Texts of evaluation are cut into segments, one after
    another; what is left over at the end drops out. A segment begins without a past, so that its
    likelihood is, if anything, too low: the bits are an upper bound of what a code for the whole
    text needs.

    Raises:
        ValueError: a text is too short; the message says which.

    Example:
        >>> data = make_text("abc", ("abcabcabcabc", "abcabc", "bcabca"), segment=3)
        >>> data.train.shape, data.test.tolist(), data.view
        (torch.Size([3, 6]), [[1, 2, 0], [1, 2, 0]], '3 characters, segments of 3')
    """
    alphabet = Alphabet.of("".join(splits)) if tokens == "characters" else Alphabet()
    rows = []
    for split, text in zip(("train", "validation", "test"), splits, strict=True):
        encoded, size = alphabet.encode(text), 2 * segment if split == "train" else segment
        if len(encoded) < size:
            raise ValueError(
                f"segment must leave room for {size} {alphabet.unit}s in the {split} text, which "
                f"has {len(encoded)}; got {segment}"
            )
        rows.append(encoded.unfold(0, size, segment).contiguous())

    return TextDataset(
        name=name,
        binarization="none",
        train=rows[0],
        validation=rows[1],
        test=rows[2],
        levels=alphabet.size,
        event_shape=(segment,),
        draw=partial(_crop, length=segment),
        alphabet=alphabet,
    )


def load_sentences(
    segment: int = 128, tokens: Literal["characters", "bytes"] = "characters"
) -> TextDataset:
    """Compose sentences of a small grammar: embedded data, 1,600 of them, 200 and 200.

    Example:
        >>> data = load_sentences()
        >>> data.levels, data.test.shape[1]
        (29, 128)
    """
    splits = tuple(
        compose_sentences(count, make_generator(STATIC_SEED, split))
        for split, count in enumerate((1600, 200, 200))
    )
    return make_text("text", splits, segment, tokens)


def load_shakespeare(
    root: Path | str, segment: int = 128, tokens: Literal["characters", "bytes"] = "characters"
) -> TextDataset:
    """Load `tinyshakespeare.txt` from a folder, or any text file in UTF-8 by its own path.

    The first nine tenths train. The last validates and, as the literature has it, is also what is
    tested on: there is no third part.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is no UTF-8, or `segment` is too long.

    References:
        Karpathy, char-rnn, 2015, whose text it is; nanoGPT, 2022, whose split.
    """
    path = Path(root)
    path = path / SHAKESPEARE if path.is_dir() or not path.suffix else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected {SHAKESPEARE} or another text file")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    middle = int(0.9 * len(text))
    return make_text("shakespeare", (text[:middle], text[middle:], text[middle:]), segment, tokens)


def _crop(rows: Tensor, generator: torch.Generator, length: int) -> Tensor:
    start = torch.randint(rows.shape[1] - length + 1, (len(rows), 1), generator=generator)
    return rows.gather(1, start + torch.arange(length))
