"""YAML files read strictly, merged with a memory of where each key came from, and mistakes told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from workbench.support.errors import WorkbenchError

Model = TypeVar("Model", bound=BaseModel)
Origins = dict[tuple[str, ...], str]
"""For each key path of a merged document the place it was written: ``file: key path``."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; YAML keeps the last one without a word."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        WorkbenchError: unreadable, not YAML, a key twice, or not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except OSError as error:
        raise WorkbenchError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise WorkbenchError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise WorkbenchError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}; correct it") from None
    if not isinstance(content, dict):
        raise WorkbenchError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    return content


def choose(name: str, known: Iterable[str], what: str, where: str) -> None:
    """Raise, with the nearest name and all names, unless ``name`` is one of ``known``."""
    known = list(known)
    if name not in known:
        raise WorkbenchError(f"{where}: unknown {what} '{name}'{did_you_mean(str(name), known)}")


def near_miss(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where something known is spelt nearly so, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'? (known: …)``."""
    known = list(known)
    near = near_miss(name, known)
    return f"{near} (known: {', '.join(known)})" if near else f"; known: {', '.join(known)}"


def merge(into: dict, extra: dict, origins: Origins, source: str, at: tuple[str, ...] = ()) -> None:
    """Lay ``extra`` over ``into``, mappings key by key, noting in ``origins`` where each key was written.

    ``source`` is the place of ``extra`` itself. A classification loss is replaced whole: the parameters of one mean
    nothing to another.
    """
    for key, value in extra.items():
        path = (*at, str(key))
        place = f"{source}.{key}" if not source.endswith(": ") else f"{source}{key}"
        if isinstance(value, dict) and isinstance(into.get(key), dict) and key != "loss":
            merge(into[key], value, origins, place, path)
            continue
        into[key] = {} if isinstance(value, dict) else value
        origins.pop(path, None)  # so that the order is that of writing
        origins[path] = place
        if isinstance(value, dict):
            merge(into[key], value, origins, place, path)


def validated(model: type[Model], content: dict, origins: Origins | str) -> Model:
    """``content`` as a ``model``.

    Args:
        origins: of a merged document, or the name of the file it was read from.

    Raises:
        WorkbenchError: names file and key path of the first mistake, and what was meant where it can be guessed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # A misspelt key is missing under its right name too: the unknown key tells the user more.
        problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        tags = _union_tags(content, problem["loc"], problem["type"] == "missing")
        path = tuple(str(part) for i, part in enumerate(problem["loc"]) if i not in tags)
        raise WorkbenchError(f"{_place(path, origins)}: {_explain(problem, model, path)}") from None


def _union_tags(content: Any, loc: tuple, key_missing: bool) -> set[int]:
    """Positions in ``loc`` that name a member of a union rather than a key of the document, there or missing."""
    tags = set()
    for i, part in enumerate(loc):
        known = part in content if isinstance(content, dict) else isinstance(content, (list, tuple))
        if known and not (isinstance(content, (list, tuple)) and not isinstance(part, int)):
            content = content[part] if isinstance(content, dict) or part < len(content) else None
        elif i < len(loc) - 1 or not (key_missing and isinstance(content, dict)):
            tags.add(i)
    return tags


def _place(path: tuple[str, ...], origins: Origins | str) -> str:
    if isinstance(origins, str):
        joint = "." if ": " in origins else ": "
        return f"{origins}{joint}{'.'.join(path)}" if path else origins
    for length in range(len(path), 0, -1):
        # Of a group that several files have written to, the last one made the mistake.
        if written := [key for key in origins if key[:length] == path[:length]]:
            place = origins[written[-1]].rsplit(".", len(written[-1]) - length)[0]
            return ".".join([place, *path[length:]])
    return origins.get((), "") + ".".join(path)


def _explain(problem: dict, model: type[BaseModel], path: tuple[str, ...]) -> str:
    kind = problem["type"]
    if kind == "extra_forbidden":
        allowed = _fields_at(model, path[:-1], problem["loc"])
        return f"unknown key{did_you_mean(path[-1], allowed)}" if allowed else "unknown key"
    if kind == "missing":
        return "missing; add it"
    if kind == "union_tag_not_found":
        return f"{problem['ctx']['discriminator'].strip(chr(39))} missing; add it"
    if kind == "union_tag_invalid":
        context = problem["ctx"]
        known = [name.strip(" '") for name in context["expected_tags"].split(",")]
        return (
            f"unknown {context['discriminator'].strip(chr(39))} '{context['tag']}'{did_you_mean(context['tag'], known)}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    shown = repr(problem["input"])
    return f"{message[0].lower()}{message[1:]}" + (f" (found {shown})" if len(shown) < 60 else "")


def _fields_at(model: type[BaseModel], path: tuple[str, ...], loc: tuple) -> list[str]:
    """Names of the fields of the model that stands at ``path`` within ``model``."""
    inside = [model]
    for key in path:
        inside = [part for annotation in inside for part in _inner(annotation, key)]
    models = [m for m in inside if isinstance(m, type) and issubclass(m, BaseModel)]
    tagged = [
        m for m in models if any(isinstance(f.default, str) and f.default in loc for f in m.model_fields.values())
    ]
    return [name for m in (tagged or models)[:1] for name in m.model_fields]


def _inner(annotation: Any, key: str) -> list[Any]:
    """Types that may stand at ``key`` of a model or a mapping; a union's members one by one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found = annotation.model_fields[key].annotation if key in annotation.model_fields else None
    elif get_origin(annotation) is dict:
        found = get_args(annotation)[1]
    else:
        return []
    return [found, *get_args(found)] if get_origin(found) is not dict else [found]
