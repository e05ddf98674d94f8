"""Replace a file only when its new content is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator

from maskcli.errors import FULL, MaskcliError
from maskcli.signals import check


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """A new empty file beside `path`, of its suffix, that takes its place when the block ends well.

    On any error and on Ctrl-C the new file goes and the old one stays as it was; what a killed writer of
    the same path left goes when the next one starts. A link is followed, an existing file keeps its
    permissions, a new one gets those of the umask; a device or a pipe is written directly. Raises
    MaskcliError for a missing folder, missing permission and a full disk.
    """
    given = os.fspath(path)
    mode = _writable(given)
    if mode is not None and not stat.S_ISREG(mode):
        with _explained(given):
            yield given
        return
    with _explained(given):
        target = os.path.realpath(given)
    folder, name = os.path.split(target)
    stem, suffix = os.path.splitext(name)
    temporary = os.path.join(folder, f".{stem[:64]}.{_writer(os.getpid())}.{secrets.token_hex(6)}{suffix}")
    try:
        with _explained(given):
            _sweep(folder, stem[:64], suffix)
            _create(given, temporary)
            yield temporary
            check()
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _create(given: str, temporary: str) -> None:
    """Make the empty file; some folders of the kernel take none and call that a missing file."""
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileNotFoundError as error:
        if not os.path.isdir(os.path.dirname(temporary)):
            raise
        what = f"{given!r} cannot be written, its folder takes no new files; choose another folder"
        raise MaskcliError(what) from error


def _writer(process: int | str) -> str:
    """A process in the name of its file; of its machine too, others may write to the same folder."""
    machine = os.uname().nodename if os.name == "posix" else ""
    return f"{zlib.crc32(machine.encode()):08x}.{process}"


def _sweep(folder: str, stem: str, suffix: str) -> None:
    """Remove the temporary files of one output whose writers, of this machine, were killed."""
    if os.name != "posix":
        # Signal 0, which only asks elsewhere, would end the process.
        return
    before, after = re.escape(f".{stem}.{_writer('')}"), re.escape(suffix)
    ours = re.compile(rf"{before}(\d+)\.[0-9a-f]{{12}}{after}")
    for name in os.listdir(folder):
        left = ours.fullmatch(name)
        if left and not _lives(int(left[1])):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _writable(given: str) -> int | None:
    """The mode of what is there, None for nothing; refused before any work when it cannot be replaced."""
    with _explained(given):
        try:
            mode = os.stat(given).st_mode
        except FileNotFoundError:
            return None
        except ValueError:
            raise MaskcliError(f"{given!r} is not a path; write one without null characters") from None
    if stat.S_ISDIR(mode):
        raise MaskcliError(f"{given!r} is a folder; add the name of a file to write")
    if not os.access(given, os.W_OK):
        raise MaskcliError(
            f"{given!r} may not be written by this user; choose another name or change its permissions"
        )
    return mode


@contextlib.contextmanager
def _explained(given: str) -> Iterator[None]:
    """Errors of the file system about `given` as one sentence; a closed pipe is not one of them."""
    folder = os.path.dirname(given) or "."
    try:
        yield
    except (BrokenPipeError, InterruptedError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.isdir(folder):
            raise
        raise MaskcliError(
            f"{given!r} cannot be written, its folder {folder!r} does not exist; create it"
        ) from error
    except OSError as error:
        why = f" ({error.strerror}); choose another name"
        if error.errno in FULL:
            why = f", {FULL[error.errno]}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = f", this user may not write to {folder!r}; choose another folder"
        raise MaskcliError(f"{given!r} cannot be written{why}") from error
