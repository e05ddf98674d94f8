"""Words to token ids: tokenizers, and the batch that a mask is built for."""

from maskcli.text.batch import Batch, batch_from_ids, batch_from_lengths, batch_from_texts
from maskcli.text.chat import chat_texts, counted_by, parse_messages, parse_tools
from maskcli.text.files import Lines, read_lines, read_standard_input, read_text, split_lines
from maskcli.text.load import has_template, load_tokenizer
from maskcli.text.tokenizer import Encoding, Tokenizer
from maskcli.text.warnings import doubled_warnings

__all__ = [
    "Batch",
    "Encoding",
    "Lines",
    "Tokenizer",
    "batch_from_ids",
    "batch_from_lengths",
    "batch_from_texts",
    "chat_texts",
    "counted_by",
    "doubled_warnings",
    "has_template",
    "load_tokenizer",
    "parse_messages",
    "parse_tools",
    "read_lines",
    "read_standard_input",
    "read_text",
    "split_lines",
]
