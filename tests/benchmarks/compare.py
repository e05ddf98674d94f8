"""Every job of maskcli beside what people use for it, one row each."""

import shutil
from typing import NamedTuple

from tests.benchmarks.measure import MASKCLI, in_turn, printed, run
from tests.benchmarks.programs import (
    BLOCK_MASK,
    CAPTURE,
    DENSE,
    DOCUMENTS,
    INSIDE,
    MODEL,
    NAMING,
    PYTHON,
    SCRIPT,
    SENTENCE,
    TOKENS,
    VISUALIZER,
    WINDOW,
    attention,
    diagnose,
    packed,
    python,
    tokenizer_folder,
)  # fmt: skip


class Case(NamedTuple):
    """A job: what it is, maskcli's command, and the peer's name and command (None where nobody does it)."""

    what: str
    ours: tuple
    peer: str = ""
    theirs: tuple | None = None


def cases(folder, gib, quick):
    """All jobs in turn; the inputs of a job exist while it is asked for."""
    gpt2 = tokenizer_folder(folder)
    visualizer = ("AttentionMaskVisualizer", python(VISUALIZER, gpt2, SENTENCE))
    yield Case("`--help`", (*MASKCLI, "--help"), "`import typer`", python("import typer"))
    yield Case("`show` a sentence, built-in tokenizer", (*MASKCLI, "show", SENTENCE), *visualizer)
    yield Case("`show` a sentence, 50,257 tokens", (*MASKCLI, "show", SENTENCE, "-t", gpt2), *visualizer)
    flex = 4096 if quick else 16384
    few = packed(flex, DOCUMENTS * flex // TOKENS)
    yield Case(
        f"`show` {flex:,} tokens, packed, window {WINDOW}", few, "create_block_mask", python(BLOCK_MASK, flex)
    )
    million = f"`show` {TOKENS:,} tokens, {DOCUMENTS:,} documents, window {WINDOW}"
    yield Case(f"{million}: statistics, blocks", packed(TOKENS, DOCUMENTS))
    for form in ("PNG", "JSON"):
        yield Case(f"{million}: {form}", (*packed(TOKENS, DOCUMENTS), "-o", folder / f"mask.{form.lower()}"))
    for each in (TOKENS // 8, TOKENS):
        padded = ",".join(str(each - item * each // 16) for item in range(8))
        show = (*MASKCLI, "show", "-m", "causal & padding", "--lengths", padded)
        yield Case(f"`show` `causal & padding`, 8 sequences of up to {each:,}: statistics, blocks", show)
        yield Case(
            f"`show` `causal & padding`, 8 sequences of up to {each:,}: PNG",
            (*show, "-o", folder / "mask.png"),
        )
    side = 4096 if quick else 16384
    run(python(DENSE, folder / "mask.npy", side))
    yield Case(f"`inspect` a dense {side:,} x {side:,} bool mask", (*MASKCLI, "inspect", folder / "mask.npy"))
    (folder / "mask.npy").unlink()
    specs = (f"causal & sliding:{WINDOW}", f"causal & sliding:{WINDOW - 1}")
    yield Case(f"`diff` two masks of {TOKENS:,} tokens", (*MASKCLI, "diff", *specs, "--lengths", TOKENS))
    yield Case(f"naming a mask of {TOKENS:,} tokens", python(NAMING))
    (folder / "model.py").write_text(MODEL)
    program = (PYTHON, folder / "model.py")
    yield Case(
        "`trace` a small CPU model", (*MASKCLI, "trace", folder / "model.py"), "the program alone", program
    )
    (folder / "many").mkdir()
    files = 16 if quick else 128
    for number in range(files):
        shutil.copy(CAPTURE, folder / "many" / f"{number}.safetensors")
    many = (*MASKCLI, "diagnose", folder / "many")
    yield Case(f"`diagnose` a folder of {files} files of 0.6 MB", many, "`--jobs 1`", (*many, "--jobs", "1"))
    for suffix, dtype in (
        ("safetensors", "float32"), ("safetensors", "float16"), ("safetensors", "bfloat16"), ("npy", "float32"), ("pt", "float32"),
    ):  # fmt: skip
        path = attention(folder / f"attention.{suffix}", gib, dtype)
        yield Case(
            f"`diagnose` {gib:g} GiB, {dtype}, .{suffix}",
            diagnose(path),
            "a torch script",
            python(SCRIPT, path),
        )
        path.unlink()


def table(folder, runs, gib, quick):
    """Lines of Markdown, as they are measured."""
    yield "| work | maskcli | peer | ratio |\n|---|---|---|---|"
    for case in cases(folder, gib, quick):
        mine, *others = in_turn([case.ours, *([case.theirs] if case.theirs else [])], runs)
        peer = f"{case.peer}: {told(others[0])}" if others else "none"
        yield f"| {case.what} | {told(mine)} | {peer} | {ratio(mine, others[0]) if others else ''} |"
    for what, name in (("generate", "generating 40 tokens"), ("train", "40 training steps")):
        for hidden in (32, 256):
            traced, alone = map(float, printed(python(INSIDE, what, hidden)).split())
            job = f"`trace` {name}, 4-layer Llama, hidden {hidden}, inside the process"
            yield f"| {job} | {traced:.2f} s | the program alone: {alone:.2f} s | {traced / alone:.2f}x its time |"


def told(measured):
    """Seconds and memory as text."""
    return f"{measured.seconds:.2f} s, {measured.peak:,.0f} MiB"


def ratio(mine, other):
    """How many times faster, or how much of the peer's time."""
    faster = other.seconds / mine.seconds
    if 0.95 < faster < 1.05:
        return "as fast"
    return f"{faster:.1f}x faster" if faster > 1 else f"{1 / faster:.1f}x its time"
