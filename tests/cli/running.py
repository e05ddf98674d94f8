"""Run maskcli as its users do: a process of its own, forked from one that has its imports, or a new interpreter."""

import atexit
import functools
import json
import os
import pty
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
SECONDS = 120
# Settings of the caller's terminal.
TERMINAL = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM", "GITHUB_ACTIONS")


def run(*arguments, stdin=None, cwd=None, check=None, fresh=False, torch=False, fault=None, **environment):
    """The finished process; nothing of the caller's terminal settings reaches it.

    With `fresh` it is a new interpreter, else a fork of one that has its imports, with `torch` also torch. What
    loads tokenizers and models finds transformers imported too. A fork may have a `fault`, as `tests.cli.server.suffer` takes it.
    """
    started_with = [name for name in environment if name.startswith("PYTHON")]
    assert fresh or not started_with, f"{started_with} are read when an interpreter starts: pass fresh=True"
    environment = {**plain_environment(), "HF_HUB_OFFLINE": "1", **environment}
    assert not fresh or fault is None
    preload = "torch" if torch or needs_torch(arguments) else ""
    preload = "transformers" if loads_models(arguments) else preload
    way = started if fresh else functools.partial(forked, preload=preload, fault=fault)
    text = stdin if isinstance(stdin, bytes) else (stdin or "").encode()
    done = way([*map(str, arguments)], text, str(cwd or os.getcwd()), environment)
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr or done.stdout
    return done


def run_traced(*arguments, cwd, torch=True, terminal=False, **environment):
    """What a program that is traced prints and says, and its exit code; tracebacks are its own.

    With `terminal` both go to one, and are what was printed.
    """
    settings = {**plain_environment(), **environment}
    preload = "torch" if torch else ""
    done = forked(["trace", *map(str, arguments)], b"", str(cwd), settings, preload, terminal)
    return done.stdout, done.stderr, done.returncode


def plain_environment():
    """The caller's environment without its terminal, whose COLUMNS readline hands on even where nobody set them."""
    return {name: value for name, value in os.environ.items() if name not in TERMINAL}


def started(arguments, stdin, cwd, environment):
    """A call in a new interpreter."""
    command = [sys.executable, "-m", "maskcli", *arguments]
    done = subprocess.run(
        command, input=stdin, capture_output=True, cwd=cwd, env=environment, timeout=SECONDS, check=False
    )
    return finished(arguments, done.returncode, done.stdout, done.stderr)


def forked(arguments, stdin, cwd, environment, preload="", terminal=False, fault=None):
    """A call in a fork of the server: pipes or a terminal, a folder, an environment and an exit code of its own."""
    link, answers = server(preload)
    (theirs_in, ours_in), (ours_out, theirs_out), (ours_err, theirs_err) = (os.pipe() for _ in range(3))
    if terminal:
        for descriptor in (ours_out, theirs_out, theirs_err):
            os.close(descriptor)
        ours_out, theirs_out = pty.openpty()
        theirs_err = os.dup(theirs_out)
    call = {"arguments": arguments, "cwd": cwd, "environment": environment, "fault": fault or {}}
    text = json.dumps(call).encode()
    theirs = [theirs_in, theirs_out, theirs_err]
    socket.send_fds(link, [len(text).to_bytes(8, "big")], theirs)
    link.sendall(text)
    for descriptor in theirs:
        os.close(descriptor)
    child = int(answers.readline())
    try:
        out, err = exchanged(ours_in, stdin, ours_out, ours_err)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        answers.readline()
        raise
    return finished(arguments, int(answers.readline()), out, err)


def needs_torch(arguments):
    """Whether a call writes what torch.save writes, or runs code of a file that most likely wants it."""
    writes = "-o" in arguments and str(arguments[arguments.index("-o") + 1]).endswith(".pt")
    return writes or any(".py:" in str(each) for each in arguments)


def loads_models(arguments):
    """Whether a call may load a tokenizer or a model."""
    return not {"probe", "-t", "--template", "--chat"}.isdisjoint(arguments)


@functools.cache
def server(preload):
    """The link to a server of this process, and what it answers."""
    ours, theirs = socket.socketpair()
    # Pipes, as its forks have; its environment is the caller's but for threads, which no fork would have.
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.server", str(theirs.fileno()), preload],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[theirs.fileno()], cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    theirs.close()

    def end():
        ours.shutdown(socket.SHUT_RDWR)
        process.communicate()

    atexit.register(end)
    return ours, ours.makefile("r", encoding="ascii")


def exchanged(to, text, *sources):
    """What comes from some descriptors, while a text is written to another; all are closed in the end."""
    received = {source: bytearray() for source in sources}
    deadline = time.monotonic() + SECONDS
    with selectors.DefaultSelector() as waiting:
        for source in sources:
            waiting.register(source, selectors.EVENT_READ)
        waiting.register(to, selectors.EVENT_WRITE)
        os.set_blocking(to, False)
        rest = memoryview(text)
        while waiting.get_map():
            ready = waiting.select(deadline - time.monotonic())
            if not ready:
                raise TimeoutError(f"no end after {SECONDS} s")
            for key, _ in ready:
                if key.fd == to:
                    rest = rest[written(to, rest) :]
                    over = not rest
                else:
                    block = read_block(key.fd)
                    received[key.fd] += block
                    over = not block
                if over:
                    waiting.unregister(key.fd)
                    os.close(key.fd)
    return [bytes(block) for block in received.values()]


def read_block(source):
    """What there is to read; nothing of a terminal that nobody has any more, which Linux calls an error."""
    try:
        return os.read(source, 2**16)
    except OSError:
        return b""


def written(to, text):
    """How much of a text could be written; all of it where nobody reads."""
    try:
        return os.write(to, text) if text else 0
    except BrokenPipeError:
        return len(text)


def finished(arguments, code, out, err):
    """As subprocess.run has it with text=True."""
    texts = (block.decode().replace("\r\n", "\n") for block in (out, err))
    return subprocess.CompletedProcess(arguments, code, *texts)


def read(*arguments, check=0, **options):
    """The JSON that a command prints; NaN and Infinity are not JSON."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(
        run(*arguments, "--format", "json", check=check, **options).stdout, parse_constant=refuse
    )


def refused(*arguments, **options):
    """The one sentence on standard error of a command that exits with 2 and prints nothing."""
    done = run(*arguments, check=2, **options)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("maskcli: ")
    assert lines[0].endswith((".", "?"))
    return lines[0]
