"""How time and memory grow: `show` with the length, `diagnose` with the file, their peers beside them; JSON and one picture."""

import json

from tests.benchmarks.measure import in_turn
from tests.benchmarks.programs import BLOCK_MASK, SCRIPT, attention, diagnose, packed, python

LABELS = {
    "show": "maskcli show",
    "flex": "create_block_mask",
    "diagnose": "maskcli diagnose",
    "script": "a torch script",
}
# The peer needs memory for every cell: 2.7 GB at the last of these.
LENGTHS = [2**exponent for exponent in range(10, 21, 2)]
FLEX = 2**14
SIZES = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


def measured(folder, runs, quick):
    """{"length": {"show": [[x, seconds, MiB], ...], "flex": ...}, "file": {"diagnose": ..., "script": ...}}."""
    curves = {"length": {"show": [], "flex": []}, "file": {"diagnose": [], "script": []}}
    for length in LENGTHS[:4] if quick else LENGTHS:
        both = {"show": (*packed(length, max(2, length // 512)), "-o", folder / "mask.png")}
        if length <= (2**12 if quick else FLEX):
            both["flex"] = python(BLOCK_MASK, length)
        add(curves["length"], length, both, runs)
    for gib in SIZES[:3] if quick else SIZES:
        path = attention(folder / "attention.safetensors", gib, "float16", 1024)
        add(curves["file"], gib * 1024, {"diagnose": diagnose(path), "script": python(SCRIPT, path)}, runs)
        path.unlink()
    return curves


def add(curves, x, commands, runs):
    """One more point on the curve of each command."""
    for name, each in zip(commands, in_turn(list(commands.values()), runs), strict=True):
        curves[name].append([x, each.seconds, each.peak])


def draw(curves, path):
    """Four panels: time and memory, against length and against file size; saved, with the numbers as JSON beside it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    path.with_suffix(".json").write_text(json.dumps(curves, indent=1) + "\n")
    figure = Figure(figsize=(10, 7), layout="constrained", dpi=120)
    columns = zip(
        figure.subplots(2, 2).T, (("length", "Tokens"), ("file", "MiB of attention in the file")), strict=True
    )
    for panels, (of, across) in columns:
        places = sorted({each[0] for points in curves[of].values() for each in points})
        for axes, at, down in zip(
            panels, (1, 2), ("Seconds, whole process", "Peak memory, MiB"), strict=True
        ):
            for name, points in curves[of].items():
                axes.plot(
                    [each[0] for each in points],
                    [each[at] for each in points],
                    marker="o",
                    label=LABELS[name],
                )
            axes.set(xlabel=across, ylabel=down, xscale="log", yscale="log")
            axes.set_xticks(places, [f"{each:,g}" if each < 1000 else f"{each:,.0f}" for each in places])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend()
    figure.savefig(path)
