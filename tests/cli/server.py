"""A process that has imported what maskcli imports, and forks for each call: `python -m maskcli` without a start.

What a fork does is what `python -m maskcli` does: descriptors, folder, environment and arguments are its own, the command
is imported and `maskcli.__main__` run as `__main__`. Only the taking apart of its modules in the end is left out.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import os
import resource
import runpy
import socket
import sys
import tempfile
import threading
from importlib import import_module

# What forks find imported beyond that: torch, and what loads tokenizers and models.
PRELOADS = {
    "": (),
    "torch": ("torch",),
    "transformers": ("torch", "transformers.models.auto.tokenization_auto", "transformers.modeling_utils"),
}
# Of Linux: the user with the fewest rights, and what reads any file.
NOBODY, CAP_DAC_OVERRIDE = 65534, 1
PR_SET_KEEPCAPS, LINUX_CAPABILITY_VERSION_3 = 8, 0x20080522
# The exit code of an interpreter that cannot write what waits for its standard streams.
UNFLUSHED = 120
# Commands whose imports the forks find done.
USUAL = [
    ["show", "a word", "--format", "json"],
    ["show", "--lengths", "2"],
    ["diagnose", "tests/data/minilm_attn_nomask.safetensors"],
    ["inspect", "tests/data/minilm_attn.safetensors"],
    ["diff", "causal", "full", "--lengths", "2"],
]


def prepare(preload=""):
    """Import what the usual commands import, as forks of this process tell it; the commands themselves are left out."""
    for name in PRELOADS[preload]:
        import_module(name)
    import maskcli.cli

    commands = {f"maskcli.cli.{name}" for name in maskcli.cli.COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        picture = ["show", "--lengths", "2", "-o", f"{folder}/mask.png"]
        learn([*USUAL, picture], commands)
    # A collection in a fork would write to, and so copy, every page that holds an object.
    gc.collect()
    gc.freeze()


def learn(calls, left_out):
    """Import what some calls import."""
    for arguments in calls:
        for name in imported(arguments):
            if name not in left_out and name != "maskcli.__main__":
                import_module(name)


def imported(arguments):
    """The modules that a command imports beyond those that are here, in their order."""
    readable, writable = os.pipe()
    if os.fork() == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        here = set(sys.modules)
        with contextlib.suppress(SystemExit):
            start(arguments)
        os.write(writable, " ".join(name for name in sys.modules if name not in here).encode())
        os._exit(0)
    os.close(writable)
    with open(readable) as told:
        names = told.read().split()
    os.wait()
    return names


def start(arguments):
    """What `python -m maskcli` does."""
    sys.argv[:] = ["-m", *arguments]
    runpy.run_module("maskcli", run_name="__main__", alter_sys=True)


def serve(link):
    """Fork for each call that comes over the link, and answer with the fork's id and then its exit code.

    It returns in the forks alone: their arguments.
    """
    answers = link.makefile("w", encoding="ascii")
    while True:
        size, descriptors, _, _ = socket.recv_fds(link, 8, 3)
        if not size:
            sys.exit()
        call = json.loads(link.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        child = os.fork()
        if child == 0:
            link.close()
            become(call, descriptors)
            return call["arguments"]
        for descriptor in descriptors:
            os.close(descriptor)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def become(call, descriptors):
    """Take on the descriptors, the folder and the environment of a call."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(call["cwd"])
    sys.path[0] = call["cwd"]
    os.environ.clear()
    os.environ.update(call["environment"])
    suffer(**call["fault"])


def suffer(limits=(), closed=(), led=(), broken=(), ended=None, ordinary=False, processes=None):
    """What a call meets: limits by their names, descriptors that are closed or lead elsewhere, an end.

    Nobody reads from pipes that are `broken`; it is `ended` by a signal, after so many seconds. An `ordinary` user
    is one whom permissions stop; so many `processes` and threads are all that its user may have.
    """
    if ordinary:
        keep_capabilities(0)
    if processes is not None:
        allow_processes(processes)
    # Python keeps bytecode that a limit cut short.
    sys.dont_write_bytecode = True
    for name, most in dict(limits).items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    for number, path in led:
        os.dup2(os.open(path, os.O_RDWR), number)
    for number in broken:
        nobody, writable = os.pipe()
        os.close(nobody)
        os.dup2(writable, number)
    for number in closed:
        os.close(number)
        # As an interpreter finds it that starts so.
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)
    if ended is not None:
        number, seconds = ended
        timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def allow_processes(most):
    """Let this process and its threads be all that their user may have; no such limit holds for root."""
    if os.getuid() == 0:
        libc().prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # Modules lie in folders that others may not read.
        keep_capabilities(1 << CAP_DAC_OVERRIDE)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def keep_capabilities(kept):
    """Give up what root may do beyond others, but for some capabilities."""
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    assert libc().capset(header, data) == 0


def libc():
    return ctypes.CDLL(None, use_errno=True)


def leave(code):
    """End as an interpreter ends, without taking apart what was imported."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream and stream.flush()
        except OSError:
            code = UNFLUSHED
    os._exit(code)


if __name__ == "__main__":
    number, preload = sys.argv[1:]
    prepare(preload)
    try:
        start(serve(socket.socket(fileno=int(number))))
    except SystemExit as stop:
        if isinstance(stop.code, int):
            leave(stop.code)
        raise
