"""load_tokenizer: from the name a user gives to a Tokenizer, by the lightest way that is right."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

from maskcli.errors import MaskcliError
from maskcli.extras import MissingError
from maskcli.text.builtin import builtin_tokenizer
from maskcli.text.files import read_json_object
from maskcli.text.tokenizer import Tokenizer, quoted, with_pad_token, with_template

BUILTIN = "builtin"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# All that any tokenizer reads; weights stay where they are.
_HUB_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "config.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "*.jinja", "tekken.json"),
)
_HUB_FAILURES = {
    "LocalEntryNotFoundError": "nothing answered",
    "RepositoryNotFoundError": "there is no such public repository",
    "GatedRepoError": "its owner has not granted access",
}


def load_tokenizer(
    name: str | None = None, *, pad_token: str | None = None, chat: bool = False, template: str | None = None
) -> Tokenizer:
    """The tokenizer called `name`: None or "builtin", a tokenizer.json, a folder, or a name on the hub.

    `pad_token` replaces the pad token: "eos" (or another role), or a token of the vocabulary. `chat` asks
    for the chat template too, which only transformers can render; `template` is one to take instead.
    """
    tokenizer = _load(name, chat)
    if template is not None:
        tokenizer = with_template(tokenizer, template)
    return tokenizer if pad_token is None else with_pad_token(tokenizer, pad_token)


def has_template(name: str) -> bool:
    """Whether the files of a tokenizer hold a chat template; none of them is more than looked at."""
    path = Path(os.path.expanduser(name))
    folder = path if stat.S_ISDIR(_mode(path)) else path.parent
    if name == BUILTIN or (path.suffix == ".json" and path.name != "tokenizer.json"):
        return False
    if not _mode(path):
        folder = _hub_folder(name)
    beside = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    config = folder / "tokenizer_config.json"
    return any(_mode(folder / file) for file in beside) or bool(read_json_object(config).get("chat_template"))


def _load(name: str | None, chat: bool) -> Tokenizer:
    """Built in, file, folder or hub."""
    if name is None or name == BUILTIN:
        return builtin_tokenizer()
    path = Path(os.path.expanduser(name))
    if name and stat.S_ISDIR(_mode(path)):
        return _from_folder(path, name, chat)
    if name and (path.suffix == ".json" or _mode(path)):
        return _from_file(path, name, chat)
    if not _HUB_NAME.fullmatch(name) or name.endswith((".model", ".txt")):
        raise MaskcliError(
            f"there is no tokenizer at {quoted(name)}; pass a tokenizer.json, a folder written by "
            'save_pretrained, or a hub name such as "org/name"'
        )
    return _from_folder(_hub_folder(name), name, chat)


def _from_file(path: Path, name: str, chat: bool) -> Tokenizer:
    """A tokenizer.json under any name; transformers, which loads folders, takes that very name only."""
    from maskcli.text.light import load_light

    if path.suffix != ".json":
        raise MaskcliError(
            f"{quoted(name)} is not a tokenizer.json; pass a file written by the tokenizers library or "
            "the folder it is in"
        )
    whole = path.name == "tokenizer.json"
    if chat and whole:
        return _from_folder(path.parent, name, chat)
    loaded = load_light(path, name, alone=not whole)
    if loaded is not None:
        return loaded
    from maskcli.text.heavy import load_folder

    try:
        return load_folder(path.parent, name)
    except MissingError:
        raise
    except MaskcliError:
        # What transformers refuses (a class with code of its own) the file still describes in full.
        alone = load_light(path, name, alone=True)
        if alone is None:
            raise
        return alone


def _from_folder(folder: Path, name: str, chat: bool) -> Tokenizer:
    """A folder: its tokenizer.json when that says it all, else transformers."""
    file = folder / "tokenizer.json"
    if _mode(file) and not chat:
        from maskcli.text.light import load_light

        loaded = load_light(file, name, alone=False)
        if loaded is not None:
            return loaded
    from maskcli.text.heavy import load_folder

    return load_folder(folder, name)


def _hub_folder(name: str) -> Path:
    """The folder in the hub's cache that holds the files of `name`, downloaded when it is not there."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    cached = None
    try:
        cached = hub.try_to_load_from_cache(name, "tokenizer.json")
        if isinstance(cached, str) and hub.try_to_load_from_cache(name, "tokenizer_config.json") is not None:
            return Path(cached).parent
        if not sys.stderr.isatty():
            disable_progress_bars()
        return Path(hub.snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except HFValidationError:
        raise MaskcliError(
            f"{quoted(name)} is no path and no hub name; pass a tokenizer.json, a folder, or a name "
            'such as "org/name"'
        ) from None
    except Exception as error:
        if isinstance(cached, str):
            return Path(cached).parent
        reason = _HUB_FAILURES.get(type(error).__name__, type(error).__name__)
        raise MaskcliError(
            f"cannot get tokenizer {quoted(name)}: it is not in the local cache, and on the hub {reason}; "
            "check the name and the connection, or pass a tokenizer.json or a folder written by "
            "save_pretrained"
        ) from None


def _mode(path: Path) -> int:
    """What is at the path, as the file system's mode; 0 for nothing, and for a path that cannot be."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0
