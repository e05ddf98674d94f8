"""Words to token ids: tokenizers, and the batch that a mask is built for."""

from maskcli.text.batch import Batch, batch_from_ids, batch_from_lengths, batch_from_texts
from maskcli.text.chat import chat_texts, parse_messages
from maskcli.text.files import Lines, read_lines, split_lines
from maskcli.text.load import load_tokenizer
from maskcli.text.tokenizer import Encoding, Tokenizer

__all__ = [
    "Batch",
    "Encoding",
    "Lines",
    "Tokenizer",
    "batch_from_ids",
    "batch_from_lengths",
    "batch_from_texts",
    "chat_texts",
    "load_tokenizer",
    "parse_messages",
    "read_lines",
    "split_lines",
]
