"""What a probe costs beside one run of the model: seconds of the processor inside the process, and peak memory.

Each job is a process of its own (python -m tests.benchmarks.probes JOB WHAT), WHAT a probe or one run of the same batch.
"""

import statistics
import sys
import time

from tests.benchmarks.measure import printed
from tests.benchmarks.programs import PYTHON

# Sizes as SmolLM2-135M has them, and a layer as small as those of tests.
SMOLLM = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3,
}  # fmt: skip
TINY = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
LONG = {
    "vocab_size": 96, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "sliding_window": 4096, "max_position_embeddings": 8192,
}  # fmt: skip
EVERYTHING = {"documents": "7,9,8", "cache": "dynamic,static"}
MASKS = {"only": "masks", "pad": "none"}
# The model type, its sizes, how long texts are and what is measured.
JOBS = {
    "a 2-layer Llama of width 32, 24 tokens: all checks": ("llama", TINY, 24, EVERYTHING),
    "a 30-layer Llama of 135 M, 16 tokens: masks, padding on both sides": (
        "llama",
        SMOLLM,
        16,
        {"only": "masks"},
    ),
    "a 30-layer Llama of 135 M, 16 tokens: all checks": (
        "llama",
        SMOLLM,
        16,
        {**EVERYTHING, "documents": "5,6,5"},
    ),
    "a window of 4,096 at 4,100 tokens, 4 layers of width 256: masks": ("mistral", LONG, 4100, MASKS),
}


def table(runs):
    """Lines of Markdown, as they are measured: medians of `runs` rounds of both in turn."""
    yield "| work | `probe` | one run | runs to find the layers |\n|---|---|---|---|"
    for number, job in enumerate(JOBS):
        rounds = [[measured(number, what) for what in ("probe", "run")] for _ in range(runs)]
        ours, theirs = (
            [statistics.median(values) for values in zip(*each, strict=True)]
            for each in zip(*rounds, strict=True)
        )
        told = [f"{seconds:.2f} s, {peak:,.0f} MiB" for seconds, peak, _ in (ours, theirs)]
        yield f"| {job} | {told[0]} | {told[1]} | {ours[2]:.0f} |"


def measured(number, what):
    """Seconds, MiB and runs of a job."""
    return tuple(map(float, printed((PYTHON, "-m", "tests.benchmarks.probes", number, what)).split()))


def main(number, what):
    """Do a job in this process, once its imports are done, and print what it cost."""
    import torch
    import transformers

    import maskcli

    name, sizes, length, planned = list(JOBS.values())[number]
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(name, **sizes)
    ).eval()
    ids = torch.randint(3, 90, (3, length))
    with torch.no_grad():
        model(input_ids=ids[:, :8], use_cache=False)

    start = time.process_time()
    forwards = 0
    if what == "probe":
        report = maskcli.probe(model, length=length, **planned)
        assert report.findings == (), report.findings
        forwards = report.behaviour.forwards
    else:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    print(time.process_time() - start, peak_memory(), forwards)


def peak_memory():
    """MiB that this process held at most."""
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
