"""maskcli show: the mask of a text."""

from __future__ import annotations

from typing import Annotated

import typer

from maskcli.cli import Exit, command
from maskcli.cli.completion import conventions, kinds
from maskcli.cli.options import (
    INPUT,
    MASK,
    OUTPUT,
    TOKENIZER,
    Dpi,
    From,
    Ground,
    MaxSize,
    Output,
    Padding,
    PadId,
    Past,
    Side,
    Title,
    Tokenizer,
    form_option,
    look,
    option,
)
from maskcli.errors import MaskcliError
from maskcli.meant.facts import MOST_KEYS
from maskcli.report.forms import names
from maskcli.report.shown import FORMS

Texts = list[str] | None
KINDS = "Kinds joined by & | ~ ( ): causal, padding, sliding:4, documents, FILE.py:NAME, …"
SPECIAL = "Add special tokens, or not. Default: as the tokenizer does."
WHY = "Say why a query may or may not see a key, and nothing else."
SLOTS = "Key slots of a static cache; those behind the text are empty."
HEADS = "Heads, for a FILE.py:NAME that tells them apart."
VALUES = "Show the values another library would see: sdpa, mha, megatron, hf, additive, binary."


@command(
    "Show the mask of a text.",
    'maskcli show "The cat sat" "Hello" -m "causal & padding"',
    "maskcli show --lengths 100000 -m sliding:4096 -o mask.png",
    'maskcli show --ids "5 3 0; 7 4 8" --pad-id 0 --to additive -o mask.safetensors',
)
def show(
    texts: Annotated[
        Texts, typer.Argument(metavar="TEXT...", help="Texts, one sample each; - reads standard input.")
    ] = None,
    mask: Annotated[
        str | None, option("--mask", "-m", help=KINDS, panel=MASK, metavar="SPEC", autocompletion=kinds)
    ] = None,
    file: Annotated[
        str | None, option(help="Texts from a file, one sample a line.", panel=INPUT, metavar="FILE")
    ] = None,
    ids: Annotated[
        str | None, option(help='Token ids: "5 3 2 0 0; 7 4 8 6 0".', panel=INPUT, metavar="IDS")
    ] = None,
    lengths: Annotated[str | None, option(help="Lengths alone: 5,3,7.", panel=INPUT, metavar="N,N")] = None,
    source: Annotated[
        Texts,
        option(
            help="The source side of a cross mask, one for each text. Repeatable.",
            panel=INPUT,
            metavar="TEXT",
        ),
    ] = None,
    pair: Annotated[
        Texts, option(help="The second text of each sample. Repeatable.", panel=INPUT, metavar="TEXT")
    ] = None,
    packed: Annotated[
        bool, option("--packed", help="Pack the texts into one sample (for documents).", panel=INPUT)
    ] = False,
    chat: Annotated[
        bool,
        option("--chat", help="Texts are messages as JSON, for the tokenizer's chat template.", panel=INPUT),
    ] = False,
    tools: Annotated[
        str | None,
        option(
            help="With --chat: tools for the template, a JSON list in a file.",
            panel=TOKENIZER,
            metavar="FILE",
        ),
    ] = None,
    template: Annotated[
        str | None,
        option(help="With --chat: another chat template, from a file.", panel=TOKENIZER, metavar="FILE"),
    ] = None,
    generation_prompt: Annotated[
        bool,
        option(
            "--generation-prompt", help="With --chat: end with what an answer begins with.", panel=TOKENIZER
        ),
    ] = False,
    labels: Annotated[
        bool, option("--labels", help="Add the labels, -100 on padding; of a chat, the answers.", panel=INPUT)
    ] = False,
    tokenizer: Tokenizer = None,
    special_tokens: Annotated[
        bool | None, option("--special-tokens/--no-special-tokens", help=SPECIAL, panel=TOKENIZER)
    ] = None,
    padding: Annotated[
        Padding,
        option(
            help="Pad to the longest text or to --max-length.",
            panel=TOKENIZER,
            metavar="<longest|max-length>",
        ),
    ] = Padding.longest,
    max_length: Annotated[
        int | None, option(help="Cut longer texts to N tokens.", panel=TOKENIZER, min=1, metavar="N")
    ] = None,
    padding_side: Annotated[
        Side | None, option(help="Where padding goes. Default: as the tokenizer does.", panel=TOKENIZER)
    ] = None,
    pad_token: Annotated[
        str | None, option(help="The padding token: a token, or eos.", panel=TOKENIZER, metavar="TOKEN")
    ] = None,
    pad_id: PadId = None,
    past: Past = None,
    cache_length: Annotated[
        int | None, option(help=SLOTS, panel=MASK, min=1, max=MOST_KEYS, metavar="N")
    ] = None,
    heads: Annotated[int, option(help=HEADS, panel=MASK, min=1, max=4096, metavar="N")] = 1,
    to: Annotated[
        str, option(help=VALUES, panel=OUTPUT, metavar="CONVENTION", autocompletion=conventions)
    ] = "sdpa",
    dtype: Annotated[
        str | None, option(help="The type of those values, such as float16.", panel=OUTPUT, metavar="DTYPE")
    ] = None,
    convention: From = None,
    block_size: Annotated[
        int, option(help="The side of the blocks that are counted.", panel=OUTPUT, min=1, metavar="N")
    ] = 128,
    why: Annotated[str | None, option(help=WHY, panel=OUTPUT, metavar="QUERY,KEY")] = None,
    sample: Annotated[
        int | None, option(help="With --why: in this sample.", panel=OUTPUT, min=0, metavar="N")
    ] = None,
    head: Annotated[
        int | None, option(help="With --why: in this head.", panel=OUTPUT, min=0, metavar="N")
    ] = None,
    form: Annotated[
        str | None, form_option(names(FORMS), "table for people; text is one line a query.")
    ] = None,
    output: Output = None,
    title: Title = None,
    dpi: Dpi = None,
    theme: Ground = None,
    max_size: MaxSize = None,
) -> int:
    """Show the attention mask of a text: a table of its tokens, and of which token may attend to which."""
    from maskcli.inputs import texts as inputs
    from maskcli.inputs.given import Given
    from maskcli.report.forms import choose, sized, write_as
    from maskcli.report.shown import forms_for, forms_of_why
    from maskcli.report.terminal import say

    idle = {"--sample": sample, "--head": head}
    if why is None and (said := [option for option, number in idle.items() if number is not None]):
        raise MaskcliError(f"{said[0]} means nothing without --why QUERY,KEY; pass that too, or leave it out")
    forms = forms_for(output) if why is None else forms_of_why(why, sample, head)
    chosen = sized(choose(forms, form, output), max_size)

    given = Given(
        texts=texts or (),
        file=file,
        ids=ids,
        lengths=lengths,
        source=source or (),
        pairs=pair,
        packed=packed,
        chat=chat,
        tools=tools,
        template=template,
        generation_prompt=generation_prompt,
        labels=labels,
        tokenizer=tokenizer,
        special_tokens=special_tokens,
        padding=padding.value,
        max_length=max_length,
        side=padding_side.value if padding_side else None,
        pad_token=pad_token,
        pad_id=pad_id,
    )
    shown = inputs.show(
        given,
        mask,
        past=past or 0,
        cache_length=cache_length,
        heads=heads,
        to=to,
        dtype=dtype,
        convention=convention,
        block=block_size,
    )
    for warning in shown.warnings:
        say(f"maskcli: warning: {warning}")
    write_as(chosen, shown, output, look(title, dpi, theme))
    return Exit.OK
