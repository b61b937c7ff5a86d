"""Plain YAML: mappings, lists, texts, numbers, true, false and null, in spellings that have a single meaning.

YAML 1.1 reads ``yes`` as true, ``010`` as 8 and ``1:30`` as 90, and a few lines of aliases as gigabytes. Here, each of
these is an error in one line that names the file, the line and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from workbench.support.errors import WorkbenchError
from workbench.support.files import read_text

PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Parser in C, ten times faster; its messages are less clear, so a file with a mistake is parsed again."""
DEEPEST = 20
"""Largest number of nested levels. Files of settings have fewer than half."""
INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)", re.ASCII)
FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?", re.ASCII)
WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
YAML_1_1 = yaml.resolver.Resolver()
"""Meaning of a word without quotes in most other programs."""
TEXT = "tag:yaml.org,2002:str"
FRAME = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
"""Events around a document."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Characters that are refused, also as escapes in quotes: file names, labels and messages cannot contain them."""


class _Mistake(Exception):
    """Mistake in the file: line counted from 0, problem and remedy."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Keys are texts, whatever they look like.

    Raises:
        WorkbenchError: unreadable, not YAML, not plain (see the module), a duplicate key, or not a mapping.
    """
    text = read_text(path, "settings")
    try:
        content = _document(_events(text))
    except _Mistake as mistake:
        line, problem, remedy = mistake.args
        raise WorkbenchError(f"{path}, line {line + 1}: {problem}; {remedy}") from None
    if not isinstance(content, dict):
        raise WorkbenchError(f"{path}: expected a mapping of keys to values, not {_shown(content)}; correct it")
    return content


def _events(text: str) -> Iterator[yaml.Event]:
    """Events of a YAML text: the starts and ends of its mappings and lists, and its scalars."""
    try:
        yield from yaml.parse(text, PARSER)
    except yaml.YAMLError as error:
        raise _not_yaml(error, text) from None


def _not_yaml(error: yaml.YAMLError, text: str) -> _Mistake:
    """Mistake in the syntax, in the words of the parser in Python if this parser finds a mistake, too."""
    try:
        for _ in yaml.parse(text, yaml.SafeLoader):
            pass
    except yaml.YAMLError as clearer:
        error = clearer
    if isinstance(error, yaml.reader.ReaderError):
        return _Mistake(text.count("\n", 0, error.position), _forbidden(text[error.position]), "remove it")
    mark = getattr(error, "problem_mark", None)
    return _Mistake(mark.line if mark else 0, f"not valid YAML: {getattr(error, 'problem', error)}", "correct it")


def _forbidden(character: str) -> str:
    return f"the control character #x{ord(character):04x}"


def _document(events: Iterator[yaml.Event]) -> Any:
    """Value of the only document."""
    content = None
    for number, event in enumerate(e for e in events if not isinstance(e, FRAME)):
        if number:
            raise _Mistake(event.start_mark.line, "a second document in the file", "keep one document")
        content = _value(event, events, 1)
    return content


def _value(event: yaml.Event, events: Iterator[yaml.Event], level: int) -> Any:
    """Value that begins with an event; the events of its content are taken from ``events``."""
    line = event.start_mark.line
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise _Mistake(line, "anchors and aliases (& and *) are not supported", "write the value itself")
    if event.tag:
        raise _Mistake(line, f"the tag {event.tag.replace('tag:yaml.org,2002:', '!!')}", "remove it")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if level > DEEPEST:
        raise _Mistake(line, f"nested more than {DEEPEST} levels deep", "correct the brackets")
    if isinstance(event, yaml.SequenceStartEvent):
        return [_value(item, events, level + 1) for item in _until(yaml.SequenceEndEvent, events)]
    mapping: dict[str, Any] = {}
    for key in _until(yaml.MappingEndEvent, events):
        name = _key(key)
        if name in mapping:
            raise _Mistake(key.start_mark.line, f"not valid YAML: duplicate key '{name}'", "correct it")
        mapping[name] = _value(next(events), events, level + 1)
    return mapping


def _until(end: type[yaml.Event], events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    while not isinstance(event := next(events), end):
        yield event


def _key(event: yaml.Event) -> str:
    line = event.start_mark.line
    if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag:
        raise _Mistake(line, "a key that is not a plain text", "write a name")
    if event.value == "<<" and event.implicit[0]:
        raise _Mistake(line, "merge keys (<<) are not supported", "write the keys themselves")
    return _text(event)


def _text(event: yaml.ScalarEvent) -> str:
    if character := CONTROL.search(event.value):
        raise _Mistake(event.start_mark.line, _forbidden(character[0]), "remove it")
    return event.value


def _scalar(event: yaml.ScalarEvent) -> Any:
    """Value of a scalar. A scalar in quotes is always a text."""
    text, line = _text(event), event.start_mark.line
    plain = event.implicit[0]
    if not plain:
        return text
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if INTEGER.fullmatch(text):
        if len(text) > 19:
            raise _Mistake(line, f"the number {text[:20]}… is too large", "write a smaller one, or a text in quotes")
        return int(text)
    if FLOAT.fullmatch(text):
        if abs(value := float(text)) == float("inf"):
            raise _Mistake(line, f"the number {text[:20]} is too large", "write a smaller one, or a text in quotes")
        return value
    if YAML_1_1.resolve(yaml.ScalarNode, text, (True, False)) != TEXT:
        remedy = "write a decimal number, true or false, or put a text in quotes"
        raise _Mistake(line, f"'{text[:40]}' has another meaning in YAML", remedy)
    return text


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) < 80 else f"{text[:77]}…"
