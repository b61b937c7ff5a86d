"""Checked documents, and mistakes in them reported in one line that names the place."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from workbench.support.errors import WorkbenchError

Model = TypeVar("Model", bound=BaseModel)
Keys = tuple[str, ...]
"""Keys from the root of a document down to a value."""


@dataclass(frozen=True)
class Place:
    """A place in a file, shown as ``file: key.key``."""

    file: str
    keys: Keys = ()

    def at(self, *keys: str) -> Place:
        """Place of a key below this one."""
        return Place(self.file, (*self.keys, *keys))

    def __str__(self) -> str:
        return f"{self.file}: {'.'.join(self.keys)}" if self.keys else self.file


def choose(name: str, known: Iterable[str], kind: str, place: Place | str) -> None:
    """Raise, with the nearest name and all names, unless ``name`` is one of ``known``.

    Args:
        kind: a noun for the message, e.g. "row".
    """
    known = list(known)
    if name not in known:
        raise WorkbenchError(f"{place}: unknown {kind} '{name}'{did_you_mean(str(name), known)}")


LISTED = 20
"""Largest number of names in a message."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` if a known name is spelt nearly so, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'? (known: …)``; a long list of names is cut off."""
    known = list(known)
    near = near_miss(name, known)
    names = ", ".join(known if len(known) <= LISTED else [*known[:LISTED], "…"])
    return f"{near} (known: {names})" if near else f"; known: {names}"


def validated(model: type[Model], content: Any, place: Place | str | Callable[[Keys], Place]) -> Model:
    """Return ``content`` as a ``model``.

    Args:
        place: the document's file, its place in a file, or a function from a key path to the key's place.

    Raises:
        WorkbenchError: names file and key path of the first mistake, and the probable meaning of a misspelt key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # A misspelt key is also missing under its correct name; the unknown key is the more useful message.
        problem = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        tags = _union_tags(content, problem["loc"], problem["type"] == "missing")
        path = tuple(str(part) for i, part in enumerate(problem["loc"]) if i not in tags)
        where = place(path) if callable(place) else _as_place(place).at(*path)
        raise WorkbenchError(f"{where}: {_explain(problem, model, path)}") from None


def _as_place(place: Place | str) -> Place:
    return Place(place) if isinstance(place, str) else place


def _union_tags(content: Any, loc: tuple, key_missing: bool) -> set[int]:
    """Return the positions in ``loc`` that name a member of a union, not a key of the document."""
    tags = set()
    for i, part in enumerate(loc):
        is_key = part in content if isinstance(content, dict) else isinstance(content, (list, tuple))
        if is_key and not (isinstance(content, (list, tuple)) and not isinstance(part, int)):
            content = content[part] if isinstance(content, dict) or part < len(content) else None
        elif i < len(loc) - 1 or not (key_missing and isinstance(content, dict)):
            tags.add(i)
    return tags


GROUP_EXPECTED = ("model_type", "model_attributes_type", "dict_type")
"""Pydantic's types of the error that a mapping was expected."""

OTHER_WORDS = {"tuple_type": "a list", "path_type": "the name of a folder"}
"""Types of Pydantic's errors whose messages name types of Python that YAML does not have."""


def _explain(problem: dict, model: type[BaseModel], path: Keys) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _fields_at(model, path[:-1], problem["loc"])
        return f"unknown key{did_you_mean(path[-1], allowed)}" if allowed else "unknown key; remove it"
    if kind == "missing":
        return "missing; add it"
    if kind == "union_tag_not_found":
        return f"{context['discriminator'].strip(chr(39))} missing; add it"
    if kind == "union_tag_invalid":
        known = [name.strip(" '") for name in context["expected_tags"].split(",")]
        key = context["discriminator"].strip("'")
        return f"unknown {key} '{context['tag']}'{did_you_mean(context['tag'], known)}"
    if kind in GROUP_EXPECTED:
        example = _example_at(model, path) if path else {}
        such_as = f" such as {_yaml(example)}" if example else " of keys and values"
        return f"expected a group{such_as}, not {_yaml(problem['input'])}"
    if kind in OTHER_WORDS:
        return f"expected {OTHER_WORDS[kind]}, not {_yaml(problem['input'])}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = repr(problem["input"])
    return f"{message[0].lower()}{message[1:]}" + (f" (found {shown})" if len(shown) < 60 else "")


def _fields_at(model: type[BaseModel], path: Keys, loc: tuple) -> list[str]:
    """Return the names of the fields of the model at ``path`` within ``model``."""
    models = [m for m in _types_at(model, path) if isinstance(m, type) and issubclass(m, BaseModel)]
    tagged = [
        m for m in models if any(isinstance(f.default, str) and f.default in loc for f in m.model_fields.values())
    ]
    return [name for m in (tagged or models)[:1] for name in m.model_fields]


def _types_at(model: type[BaseModel], path: Keys) -> list[Any]:
    """Return the types that are allowed at ``path`` within ``model``; a union's members one by one."""
    types: list[Any] = [model]
    for key in path:
        types = [part for annotation in types for part in _types_below(annotation, key)]
    return types


def _types_below(annotation: Any, key: str) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = annotation.model_fields[key].annotation if key in annotation.model_fields else None
    elif get_origin(annotation) is dict:
        inner = get_args(annotation)[1]
    else:
        return []
    return [inner, *get_args(inner)] if get_origin(inner) is not dict else [inner]


def _example_at(model: type[BaseModel], path: Keys) -> dict[str, Any]:
    """Return an example of a group at ``path``: the example that the field states, else the examples of its keys."""
    for owner in _types_at(model, path[:-1]):
        fields = getattr(owner, "model_fields", {})
        if path[-1] in fields and fields[path[-1]].examples:
            return fields[path[-1]].examples[0]
    for group in _types_at(model, path):
        if fields := getattr(group, "model_fields", {}):
            required = {name: field for name, field in fields.items() if field.is_required()}
            chosen = list((required or fields).items())[:3]
            return {name: _example(field) for name, field in chosen}
    return {}


def _example(field: FieldInfo) -> Any:
    if field.examples:
        return field.examples[0]
    return "…" if field.is_required() else field.get_default(call_default_factory=True)


def _yaml(value: Any) -> str:
    """Return a value as a line of YAML, shortened."""
    try:
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    except yaml.YAMLError:  # a value of Python's that YAML does not have
        text = str(value)
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) < 80 else f"{text[:77]}…"
