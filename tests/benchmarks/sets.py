"""Training sets: `audit` beside the script that people write, and how both grow with the rows.

python -m tests.benchmarks.sets PATH ROWS writes such a set: prompts and answers of 512 tokens, shorter ones padded.
"""

import sys

from tests.benchmarks.measure import MASKCLI, in_turn, run
from tests.benchmarks.programs import PYTHON, ROW_BY_ROW, python

TOKENS, WORDS, PAD, END = 512, 32_000, 0, 2
ROWS = (25_000, 50_000, 100_000)
# Rows made at a time, which are a group of the file.
GROUP = 5_000


def table(folder, runs, quick):
    """Lines of Markdown, as they are measured: medians of `runs` rounds in turn."""
    yield "| rows of 512 tokens | `maskcli audit` | `--jobs 1` | row by row |\n|---|---|---|---|"
    for rows in [count // 10 for count in ROWS] if quick else ROWS:
        path = folder / "set.parquet"
        run((PYTHON, "-m", "tests.benchmarks.sets", path, rows))
        ours = (*MASKCLI, "audit", path, "--pad-id", PAD, "--eos-id", END)
        measured = in_turn([ours, (*ours, "--jobs", 1), python(ROW_BY_ROW, path)], runs)
        yield f"| {rows:,} | {' | '.join(map(told, measured))} |"
        path.unlink()


def told(measured):
    """Seconds of the clock and of the processor, and memory."""
    return f"{measured.seconds:.1f} s ({measured.processor:.1f} s), {measured.peak:,.0f} MiB"


def write(path, rows):
    """Write a set; some answers have no end, or one that is not counted."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = np.random.default_rng(0)
    at = np.arange(TOKENS)
    names = ("input_ids", "labels", "attention_mask")
    kind = pa.list_(pa.int32())
    with pq.ParquetWriter(path, pa.schema([(name, kind) for name in names])) as file:
        for _ in range(0, rows, GROUP):
            count = min(GROUP, rows)
            length = generator.integers(TOKENS // 2, TOKENS + 1, (count, 1))
            prompt = generator.integers(20, TOKENS // 4, (count, 1))
            real = at < length
            ids = np.where(real, generator.integers(3, WORDS, (count, TOKENS)), PAD)
            ends = (at == length - 1) & (generator.random((count, 1)) < 0.95)
            ids[ends] = END
            counted = real & (at >= prompt) & ~(ends & (generator.random((count, 1)) < 0.02))
            columns = (ids, np.where(counted, ids, -100), real)
            flat = (pa.array(column.astype(np.int32).reshape(-1)) for column in columns)
            offsets = pa.array(np.arange(count + 1, dtype=np.int32) * TOKENS)
            file.write_table(
                pa.table(
                    {
                        name: pa.ListArray.from_arrays(offsets, each)
                        for name, each in zip(names, flat, strict=True)
                    }
                )
            )


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
