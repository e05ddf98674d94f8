"""Mutants that mean the same as the code, judged one by one: file and function, line of code, change, and why."""

SIZE = "a size, of which nothing but its order matters"
EDGE = "numbers that are measured are never just there"
SHORTER = "a first look that a second one repeats"
OTHER_SPANS = "of so many borders other spans are cut, with the same sums"
SAME = {
    ("masks/edges.py", "MOST_NODES, MOST_RANGES = 512, 8", "26: 512 -> 513"): SIZE,
    ("measure/sample.py", "ROWS, CELLS = 16, 2**21", "14: 16 -> 17"): SIZE,
    (
        "measure/sample.py sample",
        "heads = max(1, min(heads, CELLS // max(items * keys * len(chosen), 1)))",
        "43: items * keys * len(chosen) -> items * keys // len(chosen)",
    ): "several rows are chosen only where all heads fit",
    (
        "measure/spans.py _span",
        "touching = [part for part in parts if part[0] < stop and start < part[1]]",
        "46: part[0] < stop -> part[0] <= stop",
    ): "a neighbour adds cells of zeros",
    (
        "measure/spans.py _span",
        "touching = [part for part in parts if part[0] < stop and start < part[1]]",
        "65: start < part[1] -> start <= part[1]",
    ): "a neighbour adds cells of zeros",
    (
        "measure/spans.py cells",
        "held = rows if masks[name].stored[2] > 1 else (0, 1)",
        "23: masks[name].stored[2] > 1 -> masks[name].stored[2] >= 1",
    ): "rows that are alike, as often as there are rows",
    (
        "measure/spans.py _apart",
        "if len(ordered) <= MAX_SPANS + 1:",
        "7: len(ordered) <= MAX_SPANS + 1 -> len(ordered) < MAX_SPANS + 1",
    ): OTHER_SPANS,
    ("scene/describe.py _row_sums", "if off < NEARLY_ONE:", "7: off < NEARLY_ONE -> off <= NEARLY_ONE"): EDGE,
    ("scene/named.py", "MOST_LABELS = 64", "14: 64 -> 65"): SIZE,
    (
        "scene/saved_mask.py",
        "BOTH = Survey((False, True), 0.0, 1.0, 0, 0, 0, None)",
        "22: True -> False",
    ): "values of a boolean mask that nobody reads",
    (
        "diagnostics/rules/alignment.py _heads_outermost",
        "if len(shape) != 3 or min(batch, heads) < 2 or shape[0] != blocks:",
        "7: len(shape) != 3 or min(batch, heads) < 2 or shape[0] != blocks"
        " -> len(shape) != 3 and min(batch, heads) < 2 and (shape[0] != blocks)",
    ): SHORTER,
    (
        "diagnostics/rules/expected.py _is_local_layer",
        "missing = sum(never_seen(map_) is not None for map_ in alike)",
        "18: never_seen(map_) is not None -> never_seen(map_) is None",
    ): "the smaller of both counts is asked for",
    (
        "diagnostics/rules/mask_patterns.py _diagonal_step",
        "if step > 0 and not (_own_keys(layout.moved(1)) & keep).attended:",
        "14: 0 -> 1",
    ): SHORTER,
    (
        "diagnostics/rules/mask_patterns.py _patterned",
        "if within and (saved.given.keep & _real(saved)).attended:",
        "23: saved.given.keep & _real(saved) -> saved.given.keep | _real(saved)",
    ): SHORTER,
    (
        "diagnostics/rules/sums.py _softmax_axis",
        "if (np.abs(total - 1) <= tolerance).mean() > SOFTMAX_ROWS:",
        "8: np.abs(total - 1) <= tolerance -> np.abs(total - 1) < tolerance",
    ): EDGE,
    (
        "diagnostics/rules/weights.py _is_cut",
        "nearly_all = (lacking > attention.rounding).mean() >= CUT_ROWS",
        "17: (lacking > attention.rounding).mean() >= CUT_ROWS -> (lacking > attention.rounding).mean() > CUT_ROWS",
    ): EDGE,
    ("measure/passes.py", "THREADS = min(8, os.cpu_count() or 1)", "14: 8 -> 9"): SIZE,
    (
        "measure/passes.py",
        "THREADS = min(8, os.cpu_count() or 1)",
        "17: os.cpu_count() or 1 -> os.cpu_count() and 1",
    ): SIZE,
    ("measure/passes.py", "THREADS = min(8, os.cpu_count() or 1)", "35: 1 -> 2"): SIZE,
    ("measure/passes.py __call__", "self.cells = 0", "25: 0 -> 1"): SIZE,
    (
        "measure/questions.py _index",
        "return (*(int(i) for i in np.unravel_index(start + int(row), tensor.shape[:-1] or (1,))), int(key))",
        "87: 1 -> 2",
    ): "the first row of one is the first row of two",
    (
        "measure/spans.py _apart",
        "if len(ordered) <= MAX_SPANS + 1:",
        "23: MAX_SPANS + 1 -> MAX_SPANS - 1",
    ): OTHER_SPANS,
    ("measure/spans.py _apart", "if len(ordered) <= MAX_SPANS + 1:", "35: 1 -> 2"): OTHER_SPANS,
    (
        "scene/sides.py _of_side",
        'return found if role == "loss_mask" else found[:1]',
        "52: 1 -> 2",
    ): "the first alone is read",
    (
        "scene/by_weights.py over_keys",
        "if padding is None or not rows.any(axis=1).all():",
        "7: padding is None or not rows.any(axis=1).all() -> padding is None and (not rows.any(axis=1).all())",
    ): SHORTER,
    (
        "scene/placement.py _over_the_cache",
        "if behind <= 0 or length < shape[2] or not fills_only(weights, shape, length):",
        "7: behind <= 0 -> behind < 0",
    ): "no padding is added to a mask of all keys",
    (
        "measure/passes.py read_chunks",
        "def read_chunks(tensor: Tensor, shape: Shape, backwards: bool = False) -> Iterator[Chunk]:",
        "64: False -> True",
    ): "whoever wants an order says so",
    (
        "measure/passes.py __call__",
        "if self.room is None or len(self.room) < deep * tall:",
        "32: len(self.room) < deep * tall -> len(self.room) <= deep * tall",
    ): SIZE,
    ("masks/kinds.py dilated", "if total > MAX_RUNS:", "7: total > MAX_RUNS -> total >= MAX_RUNS"): SIZE,
    (
        "masks/leaves.py _ranges",
        "found = _RANGE.fullmatch(part) if len(part) <= 2 * _DIGITS else None",
        "55: 2 -> 3",
    ): SIZE,
    ("masks/mask.py from_dense", "step = max(1, CHUNK_CELLS // max(keys, 1))", "19: 1 -> 2"): SIZE,
    ("masks/mask.py from_dense", "step = max(1, CHUNK_CELLS // max(keys, 1))", "47: 1 -> 2"): SIZE,
    (
        "masks/mask.py compact",
        "if mask.stored[axis] > 1:",
        "15: mask.stored[axis] > 1 -> mask.stored[axis] >= 1",
    ): "what is stored once is stored once again",
    ("masks/naming.py", "SHORT = 20", "8: 20 -> 21"): SIZE,
    (
        "masks/packed.py by_document",
        "size = document.stop - document.start, document.places.tobytes()",
        "15: document.stop - document.start -> document.stop + document.start",
    ): "documents of one size are built anew, with the same result",
    (
        "masks/runs.py runs_of",
        "return tuple((int(a), int(b)) for a, b in zip(borders[::2], borders[1::2], strict=True))",
        "86: True -> False",
    ): "there are as many ends as beginnings",
    (
        "masks/views.py _unite",
        "if starts.size and (np.diff(starts) < 0).any():",
        "24: np.diff(starts) < 0 -> np.diff(starts) <= 0",
    ): "what is in order is put in order",
    (
        "measure/sample.py some_rows",
        "tensor.rows(row, row + 1, values[at : at + 1])",
        "51: 1 -> 2",
    ): "one row is read into the first of two places",
    (
        "diagnostics/rules/sums.py _zeros",
        "if attention.tolerance >= 1 or not (zeros.all() or attention.keys):",
        "7: attention.tolerance >= 1 -> attention.tolerance > 1",
    ): EDGE,
    (
        "diagnostics/rules/tokens.py _words_at_edges",
        "rows = np.flatnonzero((steps & edge[:, 1:] & edge[:, :-1]).sum(axis=1) >= WORDS - 1)",
        "31: steps & edge[:, 1:] -> steps | edge[:, 1:]",
    ): SHORTER,
}
