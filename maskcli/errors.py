"""The one error class of the package, and the sentence that any error ends in."""

import difflib
import errno
from collections.abc import Iterable

# What stops a file from growing, in words.
FULL = {
    errno.ENOSPC: "the disk is full; free some space",
    getattr(errno, "EDQUOT", errno.ENOSPC): "the quota of this user is used up; free some space",
    errno.EFBIG: "it would be larger than a file may be here; raise the limit (ulimit -f), or write less",
}


class MaskcliError(Exception):
    """What a user did that cannot work.

    The message is one sentence with the offending value, what was expected and what to do next.
    `maskcli.cli.main` prints it on standard error and exits with 2.
    """


class TooManyRunsError(MaskcliError):
    """A mask is not made of runs: it would take more of them than a mask may have."""


def meant(given: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a word that is none of those known: the one that is like it, or else something.

    >>> meant("sdp", ["sdpa", "mha"], "choose one of sdpa, mha")
    "did you mean 'sdpa'?"
    """
    close = difflib.get_close_matches(given, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def is_internal(error: Exception) -> bool:
    """Whether an error is maskcli's own fault: neither the user's nor the machine's."""
    return not isinstance(error, (MaskcliError, MemoryError, OSError))


def sentence(error: Exception) -> str:
    """What to tell the user of an error."""
    if isinstance(error, MaskcliError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; ask for fewer tokens, or a smaller part of the file"
    if isinstance(error, OSError) and error.filename is None and error.errno in FULL:
        return f"not all could be written, {FULL[error.errno]}"
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or 'a file'}; check the path and the permissions"
    what = f"{type(error).__name__}: {error}"
    return f"internal error ({what}); please report it, with MASKCLI_DEBUG=1 for the details"
