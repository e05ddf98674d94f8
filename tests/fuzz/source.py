"""Choices taken one by one from bytes: of a seed, or of a fuzzer that watches which code they lead to."""

import random

# Numbers at which something changes: signs, sizes of types, ceilings.
NUMBERS = [
    0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 256, 1000, 2**15, 2**16, 2**20, 2**24, 2**30, 2**31 - 2, 2**31 - 1, 2**31, 2**32,
    2**40, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -1, -2, -100, -(2**31), -(2**63),
]  # fmt: skip
# Letters that terminals, pages, spreadsheets and paths take for something else.
LETTERS = [
    "\x1b[31m", "\x07", "\r", "\n", "\t", "\x7f", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\ufffe", "\U000e0041",
    "</script>", "<img src=x onerror=1>", "&amp;", "'", '"', "`", "$x$", "\\", "=1+1", "@", "%s", "{0}", "[bold]", ":smile:", "..",
    "/", "ａ＝", "é", "e\u0301", "漢字", "👩‍👩‍👧", "ﷺ", "x" * 300,
]  # fmt: skip
BYTES = 4096


class Source:
    """Choices; behind the last byte each is the first."""

    def __init__(self, block):
        self.block, self.at = block, 0

    def whole(self, count):
        """A number of so many bytes."""
        taken = self.block[self.at : self.at + count]
        self.at += count
        return int.from_bytes(taken, "little")

    def below(self, end):
        """A number in 0..end-1."""
        return self.whole(1 if end <= 256 else 4) % end if end > 1 else 0

    def between(self, low, high):
        """A number in low..high."""
        return low + self.below(high - low + 1)

    def once_in(self, times):
        """True one time in so many."""
        return self.below(times) == 1

    def choice(self, items):
        """One of some."""
        return items[self.below(len(items))]

    def some(self, items, most):
        """Up to so many of some, in any order."""
        return [self.choice(items) for _ in range(self.below(most + 1) if items else 0)]

    def number(self):
        """A small number, or one at which something changes."""
        return self.between(0, 12) if self.below(3) else self.choice(NUMBERS)

    def text(self):
        """A word or a few, at times with letters that are no letters."""
        words = ["the", "cat", "sat", "a", "", " ", "pad", "0", "-100", "nan", *LETTERS]
        return "".join(self.some(words, 5))


def seeded(seed, case):
    """The choices of a case of a seed."""
    return Source(random.Random(f"{seed} {case}").randbytes(BYTES))
