"""Specs, drawn choice by choice."""


def spec(source, depth=0):
    """The text of a spec, mostly one that can be read."""
    way = source.below(9) if depth < 4 else 0
    if way == 6:
        return f"{spec(source, depth + 1)} {source.choice(['&', '|', '&&', 'and', 'or'])} {spec(source, depth + 1)}"
    if way == 7:
        return f"{source.choice(['~', 'not ', '!'])}({spec(source, depth + 1)})"
    if way == 8:
        return f"per-document({spec(source, depth + 1)})"
    return operand(source)


def operand(source):
    """A kind with the numbers behind it; at times with too many, too few, or none that are numbers."""
    from maskcli.masks.kinds import KINDS

    name = source.choice([*KINDS])
    kind = KINDS[name]
    if source.once_in(25):
        return f"{name}:{source.text()}"
    if kind.reads == "labels":
        return f"{name}:labels{source.choice(['', '=1', '=0,2'])}"
    if kind.reads == "ranges":
        return f"{name}:{source.number()}:{source.number()},{source.between(0, 3)}:{source.between(4, 8)}"
    if kind.numbers == ("...",) or kind.reads == "sizes":
        return f"{name}:{','.join(str(source.number()) for _ in range(source.between(1, 4)))}"
    if not kind.numbers:
        return name
    count = len(kind.numbers) - (kind.optional if source.below(2) else 0)
    return f"{name}:{','.join(str(source.number()) for _ in range(count))}"
