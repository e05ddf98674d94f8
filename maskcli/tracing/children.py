"""Child processes of a program: each is watched as the program is, and leaves its report in a folder.

A forked child goes on with the watch that it was born with. A new Python process finds the folder first on
its path, and in it a start-up module that watches once torch is imported; so does multiprocessing's
forkserver, with the children that it forks, unless it is older than the trace.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcli.tracing.imports import after_import

if TYPE_CHECKING:
    from maskcli.tracing.results import TraceReport

_STARTUP = """import os, sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
folder = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if path != folder]
spec = PathFinder.find_spec("sitecustomize", sys.path)
if spec is not None and spec.loader is not None:
    spec.loader.exec_module(module_from_spec(spec))
try:
    try:
        from maskcli.tracing.children import begin
    except ImportError:
        sys.path.append({home!r})
        from maskcli.tracing.children import begin
    begin(folder)
except Exception:
    pass
"""
# Why children were not followed.
_OLDER = "the forkserver that makes them is older than the trace"
_APART = "what is declared in this process cannot be handed to a new one"
_OPTIONS, _BEGAN, _REPORT = "options", ".began", ".report"


class Children:
    """The folder of a program's children, for as long as the program is watched."""

    def __init__(self, folder: str, parent: int) -> None:
        self.folder, self.parent = folder, parent
        self._before: dict[str, str | None] = {}
        self._server = _forkserver()

    @property
    def is_child(self) -> bool:
        """Whether this process is a child itself."""
        return os.getpid() != self.parent

    def follow(self, program: str, options: Any) -> None:
        """Have new Python processes watched."""
        home = str(Path(__file__).resolve().parents[2])
        Path(self.folder, "sitecustomize.py").write_text(_STARTUP.format(home=home))
        Path(self.folder, _OPTIONS).write_bytes(pickle.dumps((self.parent, program, options)))
        path = os.environ.get("PYTHONPATH")
        self._before["PYTHONPATH"] = path
        os.environ["PYTHONPATH"] = self.folder + (os.pathsep + path if path else "")

    def why_not(self, method: str) -> str | None:
        """Why children that multiprocessing starts by this method are not followed; None where they are."""
        if method == "fork":
            return None
        if not Path(self.folder, _OPTIONS).exists():
            return _APART
        older = self._server is not None and self._server == _forkserver()
        return _OLDER if older and method == "forkserver" else None

    def began(self) -> None:
        """This child has something to report."""
        if self.is_child:
            Path(self.folder, f"{os.getpid()}{_BEGAN}").touch()

    def leave(self, report: TraceReport) -> None:
        """Leave the report of this child."""
        if not report.calls and not report.findings:
            return
        part = Path(self.folder, f"{os.getpid()}.part")
        try:
            # What is drawn is the program's own: copies of tensors would pass through the disk.
            part.write_bytes(pickle.dumps(dataclasses.replace(report, kept=())))
            part.replace(Path(self.folder, f"{os.getpid()}{_REPORT}"))
        except OSError:
            # The program was over before its child was.
            return

    def reports(self) -> tuple[list[TraceReport], int]:
        """What the children have left, and how many of them had begun and left nothing."""
        there = list(Path(self.folder).iterdir())
        ended = [path for path in there if path.suffix == _REPORT]
        lost = {path.stem for path in there if path.suffix == _BEGAN} - {path.stem for path in ended}
        return [pickle.loads(path.read_bytes()) for path in sorted(ended)], len(lost)

    def close(self) -> None:
        """Children from here on are not watched."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(self.folder, ignore_errors=True)


def children_of(program: str, options: Any) -> Children:
    """The children of this process, which are watched from here on."""
    children = Children(tempfile.mkdtemp(prefix="maskcli-trace-"), os.getpid())
    try:
        children.follow(program, options)
    except (pickle.PicklingError, AttributeError, TypeError):
        # Options of this process alone, such as a tokenizer: forked children have them.
        children.close()
        os.makedirs(children.folder, mode=0o700)
    return children


def _forkserver() -> int | None:
    """The process of multiprocessing's forkserver, where one has begun."""
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    pid: int | None = getattr(server, "_forkserver_pid", None)
    return pid


def tell_starts(undo: ExitStack, started: Callable[[str], None]) -> None:
    """Tell by which method multiprocessing starts each child process from here on."""
    from multiprocessing.process import BaseProcess

    original = BaseProcess.start

    @functools.wraps(original)
    def start(process: Any) -> None:
        original(process)
        started(getattr(process._popen, "method", "fork"))

    BaseProcess.start = start  # type: ignore[method-assign, assignment]
    undo.callback(setattr, BaseProcess, "start", original)


def before_exit(last: Callable[[], None]) -> None:
    """Do something last of all in a process that ends by os._exit or because it is told to."""
    leave = os._exit

    def exit_(code: int) -> None:
        last()
        leave(code)

    os._exit = exit_  # type: ignore[assignment]
    before_termination(last)


def before_termination(last: Callable[[], None]) -> None:
    """Do something before SIGTERM ends this process, as it ends the workers of a pool."""
    number = signal.SIGTERM

    def terminate(*_: object) -> None:
        last()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(number) == signal.SIG_DFL:
        signal.signal(number, terminate)


def begin(folder: str) -> None:
    """A new process has started: watch it once it imports torch."""

    def watch() -> None:
        if not os.path.isdir(folder):
            # A forkserver lives longer than the trace.
            return
        from maskcli.tracing.trace import Trace

        parent, program, options = pickle.loads(Path(folder, _OPTIONS).read_bytes())
        watching = Trace(options, program, Children(folder, parent))
        watching.__enter__()

        def last() -> None:
            watching.__exit__(None, None, None)

        atexit.register(last)
        before_exit(last)

    if os.path.isdir(folder) and "torch" not in sys.modules:
        after_import("torch", watch)
