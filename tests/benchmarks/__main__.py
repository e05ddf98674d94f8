"""python -m tests.benchmarks [--runs N] [--gib N] [--quick]: maskcli beside the programs people use instead, as a Markdown table.

With `growth` a picture of how time and memory grow; with `rules` what every rule finds and what healthy models are accused of;
with `probes` what a probe costs beside one run of the model; with `audit` what training sets cost beside a script;
with `pages` how large pages are, and when a browser shows them;
with `sweep` the masks of every decoder of the installed transformers, written to the page `architectures` (with names, their rows).
Whole processes, taken in turn (A B A B ...) after a warm-up of each, so that a machine whose speed drifts is fair to both.
Timings are printed, never asserted.
"""

import argparse
import tempfile
from pathlib import Path


def main():
    """Measure, and print or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=["audit", "compare", "growth", "pages", "probes", "rules", "sweep"],
        default="compare",
    )
    parser.add_argument("names", nargs="*", help="architectures to sweep; default: all")
    parser.add_argument(
        "--runs", type=int, help="rounds after the warm-up (compare: 5, growth: 3; with --quick 1)"
    )
    parser.add_argument(
        "--gib", type=float, help="size of the files that are diagnosed (4; with --quick 0.25)"
    )
    parser.add_argument("--quick", action="store_true", help="smaller inputs, one round")
    parser.add_argument("-o", "--output", type=Path, default=Path("growth.png"), help="the picture of growth")
    chosen = parser.parse_args()
    if chosen.what == "rules":
        from tests.benchmarks.rules import table

        show(table())
        return
    if chosen.what == "probes":
        from tests.benchmarks.probes import table as costs

        show(costs(chosen.runs or 3))
        return
    if chosen.what == "sweep":
        from tests.benchmarks.sweep import sweep, write

        lines = []
        for line in sweep(chosen.names):
            print(line, flush=True)
            lines.append(line)
        write(lines, chosen.names)
        return
    with tempfile.TemporaryDirectory() as name:
        if chosen.what == "pages":
            from tests.benchmarks.pages import table as pages

            show(pages(Path(name), chosen.runs or 5))
            return
        if chosen.what == "audit":
            from tests.benchmarks.sets import table as sets

            show(sets(Path(name), chosen.runs or (1 if chosen.quick else 3), chosen.quick))
            return
        if chosen.what == "growth":
            from tests.benchmarks.growth import draw, measured

            draw(measured(Path(name), chosen.runs or (1 if chosen.quick else 3), chosen.quick), chosen.output)
            return
        from tests.benchmarks.compare import table

        runs, gib = chosen.runs or (1 if chosen.quick else 5), chosen.gib or (0.25 if chosen.quick else 4)
        show(table(Path(name), runs, gib, chosen.quick))


def show(lines):
    """Print lines as they come."""
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
