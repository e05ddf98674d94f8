"""JUnit XML: a suite for each file, a case for each rule that could look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from maskcli.diagnostics.catalogue import named
from maskcli.report.entries import Entry, Part, Results
from maskcli.report.terminal import clean


def tell(results: Results) -> Iterator[str]:
    """The whole document. What is noted is no failure; what could not be checked is an error."""
    root = Element("testsuites", name="maskcli")
    for part in results.parts:
        root.append(_suite(part))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, 0)) for suite in root)))
    indent(root)
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield tostring(root, encoding="unicode") + "\n"


def _suite(part: Part) -> Element:
    found: dict[str, list[Entry]] = {_title(code): [] for code in sorted(part.decided)}
    for entry in part.entries:
        found.setdefault(entry.title, []).append(entry)
    suite = Element("testsuite", name=clean(part.name) or "maskcli")
    for title, entries in found.items():
        _tell_of(SubElement(suite, "testcase", classname=_class(part), name=title), entries)
    if part.error is not None:
        case = SubElement(suite, "testcase", classname=_class(part), name="can be checked")
        SubElement(case, "error", message=clean(part.error), type="error")
    elif not found:
        SubElement(suite, "testcase", classname=_class(part), name="nothing found")

    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    suite.set("skipped", "0")
    return suite


def _tell_of(case: Element, entries: Sequence[Entry]) -> None:
    """One failure for all that a rule found, since most readers take the first one alone."""
    if not entries:
        return
    told = "\n\n".join(map(_paragraph, entries))
    if all(entry.severity == "note" for entry in entries):
        SubElement(case, "system-out").text = told
        return
    failure = SubElement(case, "failure", message=clean(entries[0].message), type=entries[0].severity)
    failure.text = told


def _paragraph(entry: Entry) -> str:
    at = f"{entry.file}:{entry.line}" if entry.line else entry.file
    labels = {"": entry.message, "at: ": at, "where: ": entry.place, "fix: ": entry.fix}
    return "\n".join(f"{label}{clean(text)}" for label, text in labels.items() if text)


def _title(code: str) -> str:
    rule = named(code)
    return f"{rule.code} {rule.name}"


def _class(part: Part) -> str:
    return clean(part.name) or "maskcli"
