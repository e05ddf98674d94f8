"""Command lines run in this process, one after the other, and what no run of them may do."""

import atexit
import collections
import contextlib
import faulthandler
import importlib
import io
import os
import re
import signal
import sys
import tempfile
import time
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

# A case may take no longer, in seconds, and no more memory, in MiB.
SECONDS, MEBIBYTES = 5.0, 500
# Bytes of output that a second more is given for: a million tokens with their runs are 320 MB of JSON.
WRITTEN = 2**24
# Where nothing comes back, the process ends here and says where it was.
LOST = 300
# What a process ends with that is asked to end.
ENDED = 128 + signal.SIGTERM
# Ends of lines, and what stands between columns.
PLAIN = str.maketrans("", "", "\n\t")
# How often each exit code came.
CODES = collections.Counter()
STATUS = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True)
class Outcome:
    """What a run left: its exit code, both its streams, and its cost."""

    code: int
    out: bytes
    err: bytes
    seconds: float = 0.0
    mebibytes: float = 0.0


class Streams:
    """Descriptors 1 and 2, kept in memory while something runs; libraries write to them as well as Python."""

    def __init__(self):
        self.kept = [os.memfd_create(name) for name in ("out", "err")]
        self.own = [os.dup(number) for number in (1, 2)]
        path = os.path.join(tempfile.gettempdir(), f"fuzz-{os.getpid()}.case")
        self.case = os.open(path, os.O_CREAT | os.O_RDWR)
        # A process that dies leaves it behind.
        atexit.register(os.unlink, path)
        self.console = os.fdopen(self.own[1], "w", buffering=1, closefd=False)
        faulthandler.enable(self.console)
        # It costs a thread less than a deadline of faulthandler's, in each case.
        faulthandler.register(signal.SIGALRM, self.console, chain=True)

    @contextlib.contextmanager
    def taken(self):
        sys.stdout.flush()
        sys.stderr.flush()
        before = sys.stdout, sys.stderr, sys.stdin
        for number, kept in enumerate(self.kept, start=1):
            os.ftruncate(kept, 0)
            os.lseek(kept, 0, os.SEEK_SET)
            os.dup2(kept, number)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2)
        )
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(ValueError):
                    stream.flush()
            for number, own in enumerate(self.own, start=1):
                os.dup2(own, number)
            sys.stdout, sys.stderr, sys.stdin = before

    def remember(self, number):
        """The case that runs now, for whoever finds the process dead."""
        os.pwrite(self.case, b"%20d" % number, 0)

    def read(self):
        return [os.pread(kept, os.fstat(kept).st_size, 0) for kept in self.kept]


STREAMS = Streams()


def prepare():
    """Import what takes seconds to be imported: no input is to answer for that."""
    for name in (
        "torch",
        "pyarrow.parquet",
        "matplotlib.figure",
        "transformers.models.auto.tokenization_auto",
    ):
        importlib.import_module(name)


def run(arguments, stdin=b""):
    """What `maskcli ARGUMENTS` does, in this process."""
    from maskcli.cli import main

    def called():
        given.seek(0)
        sys.stdin = io.TextIOWrapper(given, encoding="utf-8")
        sys.argv = ["maskcli", *arguments]
        try:
            main()
        except SystemExit as stop:
            if stop.code == ENDED:
                # Somebody ends this process, and no case does it to itself.
                os._exit(ENDED)
            return stop.code if isinstance(stop.code, int) else 0

    # Standard input is a file: it has a number, as it has in a shell.
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        return measured(called)


def measured(called):
    """The outcome of a function that returns an exit code; what it raises counts as a traceback."""
    _forget_peak()
    before, began = _peak(), _seconds()
    signal.setitimer(signal.ITIMER_REAL, LOST)
    code = -1
    with STREAMS.taken(), warnings.catch_warnings():
        warnings.simplefilter("always")
        # As Python has it: those of other people's modules are not for users.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            code = called()
        except Exception:
            import traceback

            traceback.print_exc()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seconds = _seconds() - began
    CODES[code] += 1
    return Outcome(code, *STREAMS.read(), seconds, _peak() - before)


def faults(outcome):
    """What a run did that none may do, a sentence each."""
    err = outcome.err.decode(errors="replace")
    lines = err.splitlines()
    told = [line for line in lines if not line.startswith("maskcli: warning:")]
    checks = [
        (outcome.code in (0, 1, 2), f"exit code {outcome.code}"),
        ("Traceback" not in err, "traceback: " + " | ".join(lines[-3:])),
        ("internal error" not in err, "internal error: " + " | ".join(told)),
        (
            all(line.startswith("maskcli: ") for line in lines),
            "on standard error: " + " | ".join(lines)[:400],
        ),
        (outcome.code != 2 or told, "exit code 2 without a sentence"),
        (outcome.seconds <= SECONDS + len(outcome.out) / WRITTEN, f"took {outcome.seconds:.1f} s"),
        (outcome.mebibytes <= MEBIBYTES, f"took {outcome.mebibytes:.0f} MiB"),
        (not (letter := raw(outcome.out)), f"raw {letter!r} on standard output"),
        (not (letter := raw(outcome.err)), f"raw {letter!r} on standard error"),
        (len(err) < 4000, f"{len(err)} characters on standard error"),
    ]
    return [sentence for fine, sentence in checks if not fine]


def raw(block):
    """The first character that a terminal takes for something else; what is no UTF-8 counts as one."""
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        return str(error)
    if text.isascii() and text.translate(PLAIN).isprintable():
        return ""
    odd = (
        letter
        for letter in text
        if letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    )
    return next(odd, "")


def _seconds():
    """A clock that stands still while this process could run and others have the processor."""
    try:
        waited = int(Path("/proc/self/schedstat").read_text().split()[1])
    except OSError:
        waited = 0
    return time.perf_counter() - waited / 1e9


def _forget_peak():
    """From here on the peak of memory is that of what runs next."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak():
    with open("/proc/self/status") as file:
        return int(STATUS.search(file.read())[1]) / 1024
