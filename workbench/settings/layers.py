"""Settings in layers: documents laid over each other, and for each key the place where it was written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from workbench.support.strict_yaml import Keys, Model, Place, validated

TAGS = {"data": "kind", "detector": "family", "loss": "name"}
"""Groups of which there are several kinds, and the key that names the kind."""


class Layers:
    """A document made of layers. It owns its content and, for each key, the place that wrote the key last.

    Layers are laid key by key, groups within groups. A group of another kind (``TAGS``: e.g. a loss of another name)
    replaces the whole group, since the settings of one kind mean nothing to another kind.

    >>> loss = Layers({"loss": {"name": "focal", "gamma": 2}}, Place("recipes.yaml", ("atss",)))
    >>> loss.lay(Layers({"loss": {"gamma": 1}}, Place("table5.yaml", ("rows", "x"))))
    >>> loss.content, str(loss.place(("loss", "gamma")))
    ({'loss': {'name': 'focal', 'gamma': 1}}, 'table5.yaml: rows.x.loss.gamma')
    """

    def __init__(self, content: dict[str, Any], place: Place) -> None:
        """Make a document of one layer, a copy of ``content``, which is written at ``place``."""
        self.content: dict[str, Any] = {}
        self._places: dict[Keys, Place] = {(): place}
        self._lay(self.content, content, lambda keys: place.at(*keys))

    def lay(self, layer: Layers, into: str | None = None) -> None:
        """Lay a document over this one, or over one of its groups."""
        at = () if into is None else (into,)
        group = self.content if into is None else self.content.setdefault(into, {})
        self._places[at] = layer.place(())
        self._lay(group, layer.content, layer.place, at)

    def part(self, *path: str) -> Layers:
        """Return a copy of the group at ``path``; an empty document if there is no such group."""
        group = self.content
        for key in path:
            group = group.get(key, {})
        part = Layers({}, self.place(path))
        part._lay(part.content, group, lambda keys: self.place((*path, *keys)))
        return part

    def pick(self, keys: Iterable[str]) -> Layers:
        """Return a copy with some of the keys at the root."""
        picked = Layers({}, self.place(()))
        picked._lay(picked.content, {key: self.content[key] for key in keys if key in self.content}, self.place)
        return picked

    def place(self, path: Keys) -> Place:
        """Return the place where a key was written last; for a missing key, the place to add it."""
        length = next(length for length in range(len(path), -1, -1) if path[:length] in self._places)
        return self._places[path[:length]].at(*path[length:])

    def validated(self, model: type[Model]) -> Model:
        """Return the content as a ``model``; see `workbench.support.strict_yaml.validated`."""
        return validated(model, self.content, self.place)

    def _lay(self, group: dict, extra: dict, locate: Callable[[Keys], Place], at: Keys = (), below: Keys = ()) -> None:
        """Lay a mapping over ``group``.

        Args:
            locate: place of a key, from the key's path within the layer.
            at: path of the group that the layer is laid over.
            below: path of ``extra`` within the layer.
        """
        for key, value in extra.items():
            keys = (*below, str(key))
            path = (*at, *keys)
            old = group.get(key)
            merges = isinstance(value, dict) and isinstance(old, dict) and not _changes_kind(path, old, value)
            if key in group and not merges:
                self._places = {k: place for k, place in self._places.items() if k[: len(path)] != path}
            self._places[path] = locate(keys)
            if isinstance(value, dict):
                inner = group[key] = old if merges else {}
                self._lay(inner, value, locate, at, keys)
            else:
                group[key] = value


def _changes_kind(path: Keys, old: dict, new: dict) -> bool:
    tag = TAGS.get(path[0]) if len(path) == 1 else None
    return tag in new and old.get(tag) != new[tag]
