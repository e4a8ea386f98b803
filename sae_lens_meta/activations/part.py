"""One of several parts of a stream, which processes work on that share nothing but a folder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """
    One of several parts that are read apart.

    Attributes:
        number: from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """
        A part from `3/8`.

        Raises:
            ValueError: if it is none.
        """
        number, _, of = text.partition("/")
        if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
            raise ValueError(f"--part takes I/N, from 1/N to N/N; got {text!r}.")
        return cls(int(number), int(of))

    def range(self, n: int) -> range:
        """Which of `n` shards or blocks it has."""
        return range(n * (self.number - 1) // self.of, n * self.number // self.of)

    def __str__(self) -> str:
        return f"{self.number} of {self.of}"

    @property
    def id(self) -> str:
        """In names of folders."""
        return f"{self.number}_of_{self.of}"


WHOLE = Part(1, 1)


def parts(n: int) -> list[Part]:
    """All of them, where there are `n`."""
    return [Part(number, n) for number in range(1, n + 1)]
