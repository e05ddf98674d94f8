"""Pages of hostile names, tokens and texts: no markup but their own, data that is JSON, no raw control character."""

import functools
import json
from html.parser import HTMLParser

from safetensors.numpy import save_file

from tests.fuzz.process import faults, raw, run
from tests.fuzz.seeds import TEXTS, arrays
from tests.fuzz.specs import spec

COMMANDS = ("show", "inspect", "diagnose", "diff")


def page(source, folder):
    """Whatever a page shows, it is the page of harmless texts with other data."""
    path = folder / "page.html"
    command, *words = [word.replace("\0", "") for word in _words(source, folder)]
    words = [command, "-o", str(path), *words]
    outcome = run(words)
    told = faults(outcome)
    if outcome.code in (0, 1):
        told += odd(path.read_text("utf-8")) if path.exists() else ["no page"]
    return [f"{fault}: {words}" for fault in told]


def odd(text):
    """What of a page is not as it must be."""
    parts = Parts(text)
    checks = [
        (parts.tags == _plain().tags, "markup that is not the page's own"),
        (parts.script == _plain().script, "a script that is not the page's own"),
        (_is_json(parts.data), "data that is no JSON"),
        (not set("<>&") & set(parts.data), "data that may end its element"),
        (not (letter := raw(text.encode())), f"raw {letter!r} in the page"),
    ]
    return [sentence for fine, sentence in checks if not fine]


class Parts(HTMLParser):
    """The tags of a page in their order, the data and the script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.script = [], "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *attrs))

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    def handle_data(self, text):
        last = self.tags[-1] if self.tags else ""
        if last == ("script", ("type", "application/json"), ("id", "data")):
            self.data += text
        elif last == ("script",):
            self.script += text


@functools.cache
def _plain():
    """The page of nothing."""
    from maskcli.report.page.html import html

    return Parts("".join(html({"title": "", "maps": []})))


def _is_json(text):
    def refused(name):
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refused)
    except ValueError:
        return False
    return True


def _words(source, folder):
    command = source.choice(COMMANDS)
    if command == "show":
        texts = [source.text() or "a" for _ in range(source.between(1, 3))]
        titled = ["--title", source.text() or "b"] if source.below(2) else []
        by_model = ["-t", str(TEXTS)] if source.below(2) else []
        return [
            "show",
            "--mask",
            source.choice(["causal & padding", spec(source)]),
            *titled,
            *by_model,
            "--",
            *texts,
        ]
    path = str(_file(source, folder))
    if command == "diff":
        return ["diff", f"{path}:causal_mask", source.choice(["causal", spec(source)])]
    expected = ["--expect", spec(source)] if command == "diagnose" and source.below(2) else []
    return [command, path, *expected]


def _file(source, folder):
    """A dump whose tensors, metadata and own name are hostile."""
    told = source.text().replace("/", "_").replace("\0", "")[:30]
    path = folder / f"{told}x.safetensors"
    named = {}
    for name, array in arrays().items():
        held = source.below(3)
        named[name if held else f"{source.text()}.{name}"[:200]] = array
    save_file(named, path, {source.text() or "k": source.text(), "expect": spec(source)})
    return path
