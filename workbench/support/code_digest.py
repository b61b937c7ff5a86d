"""Digest of the code that a run uses. It changes only if a definition changes that the run uses.

The code is followed by name, from the entry points through functions, classes and constants. An experiment chooses by
name among alternatives: losses, families of detectors, kinds of data. Each alternative has its own digest. A new loss,
family or file therefore changes no digest of an existing run. A new setting with a default changes only the digests of
runs whose code reads the setting.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

PACKAGE = Path(__file__).resolve().parents[1]
ROOMS = ("boxes.py", "losses", "assigners", "settings", "layers", "data", "detectors", "evaluation", "training")
"""Rooms whose code decides numbers. Names that lead to other rooms are not followed."""
TRAINING = ("training.start.initial_detector", "training.loop.train", "detectors.build_detector")
"""Entry points of the code that decides what is learnt."""
DETECTION = ("detectors.build_detector", "evaluation.inference.detect_data_set")
"""Entry points of the code that decides the detections of trained weights."""
EVALUATION = (
    *TRAINING,
    *DETECTION,
    *("evaluation.coco_metrics.run_evaluation", "evaluation.coco_metrics.metrics_of"),
    "evaluation.coco_metrics.read_detections",
    *("evaluation.resampling.matches_of", "evaluation.intervals.bootstrap"),
    *("evaluation.ranking.foreground_locations", "evaluation.ranking.spearman"),
)
"""Entry points of the code that also decides metrics, their resamples and the rank correlation."""
DRAWING = {"embedded": "data.embedded.draw_data_set"}
"""Further entry points of an alternative: this code draws the images from the settings of a drawn data set."""
SHARED = "shared"
"""Name of the part that all runs use."""

Name = tuple[str, str]
"""A module within the package, and a definition at its top level."""


def code_digest(experiment: BaseModel, roots: tuple[str, ...] = TRAINING) -> str:
    """Digest of the code that an experiment uses, equal on every version of Python.

    Comments, docstrings, imports, file names and the order of definitions do not change it.

    Args:
        experiment: settings whose groups name the chosen alternatives.
        roots: entry points, ``TRAINING``, ``DETECTION`` or ``EVALUATION``.

    Returns:
        Digests (eight hex digits) of the parts: ``shared:1f0c5d2a embedded:… varifocal:… vfnet:…``.
    """
    groups = [group for group in experiment.model_dump().values() if isinstance(group, Mapping)]
    chosen = {value for group in groups for value in group.values() if isinstance(value, str)}
    parts = _parts(roots)
    return " ".join(f"{name}:{digest}" for name, digest in parts.items() if name in chosen | {SHARED})


@cache
def _parts(roots: tuple[str, ...]) -> dict[str, str]:
    """Digest of each part: the shared code, and what an alternative uses beyond it."""
    code = _Code()
    parts = {SHARED: code.used(roots)}
    for name in sorted(code.alternatives):
        members = [".".join(member) for member in code.members if code.alternative(member) == name]
        drawing = [DRAWING[name]] if name in DRAWING else []
        parts[name] = code.used([*roots, *members, *drawing]) - parts[SHARED]
    return {name: hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:8] for name, texts in parts.items()}


class _Piece(NamedTuple):
    """Statement with the names that it uses, or a setting with a default.

    A setting counts only if the code in use reads an ``attribute`` with the name of the setting.
    """

    text: str
    names: frozenset[Name]
    attributes: frozenset[str]
    attribute: str | None = None


class _Code:
    """Definitions of the rooms, and what each of them uses.

    Attributes:
        alternatives: names that an experiment can state, e.g. ``varifocal``.
        members: definitions that are members of a choice, e.g. a class in the union of all losses.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, dict[str, list[ast.stmt]]] = {}
        self.imports: dict[str, dict[str, Name]] = {}
        for room in ROOMS:
            for path in sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / room]:
                parts = path.relative_to(PACKAGE).with_suffix("").parts
                module = ".".join(part for part in parts if part != "__init__")
                self._read(module, ast.parse(path.read_text(encoding="utf-8")))
        self.tags = {
            (module, name): tag
            for module, definitions in self.definitions.items()
            for name, (first, *_) in definitions.items()
            if isinstance(first, ast.ClassDef) and (tag := _tag(first))
        }
        self.alternatives = set(self.tags.values())
        self.members: set[Name] = set()
        self._pieces: dict[Name, list[_Piece]] = {}

    def _read(self, module: str, tree: ast.Module) -> None:
        definitions, imports = self.definitions.setdefault(module, {}), self.imports.setdefault(module, {})
        for statement in tree.body:
            if _is_type_checking(statement):
                continue
            for node in ast.walk(statement):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench"):
                    source = node.module.removeprefix("workbench").removeprefix(".")
                    imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
            if not _has_no_effect(statement):
                for name in _defined(statement):
                    definitions.setdefault(name, []).append(statement)

    def find(self, module: str, name: str) -> Name | None:
        """Return the definition that a name means in a module; for a module, the second part is empty."""
        if name in self.definitions.get(module, {}):
            return module, name
        if name in self.imports.get(module, {}):
            return self.find(*self.imports[module][name])
        inner = f"{module}.{name}".strip(".")
        return (inner, "") if inner in self.definitions else None

    def alternative(self, name: Name) -> str | None:
        """Alternative of a class or a constant; a constant belongs to the only tagged class that it names."""
        if name in self.tags:
            return self.tags[name]
        statements = self.definitions[name[0]].get(name[1], [])
        if not statements or not all(isinstance(s, ast.Assign | ast.AnnAssign) for s in statements):
            return None
        named = {self.tags[n] for s in statements for n in self._uses(name[0], s)[0] if n in self.tags}
        return named.pop() if len(named) == 1 else None

    def _uses(self, module: str, node: ast.AST) -> tuple[frozenset[Name], frozenset[str]]:
        """Return the definitions that a statement names, and the names by which it may read an attribute.

        An attribute is read behind a dot, in a pattern, or by a text for ``getattr``.
        """
        names: set[Name | None] = set()
        attributes: set[str] = set()
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                names.add(self.find(module, part.id))
            elif isinstance(part, ast.Attribute):
                attributes.add(part.attr)
                owner = self.find(module, part.value.id) if isinstance(part.value, ast.Name) else None
                if owner and not owner[1]:
                    names.add(self.find(owner[0], part.attr))
            elif isinstance(part, ast.MatchClass):
                attributes.update(part.kwd_attrs)
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                attributes.add(part.value)
        return frozenset(name for name in names if name and name[1]), frozenset(attributes)

    def used(self, roots: Iterable[str]) -> set[str]:
        """Texts of the pieces that the roots use, directly or through other definitions."""
        names, attributes, texts = set(), set(), set()
        for root in roots:
            if (name := self.find(*root.rsplit(".", 1))) is None:
                raise LookupError(f"{root}: no such entry point of the code")
            names.add(name)
        size = -1
        while size != (size := len(names) + len(attributes) + len(texts)):
            for piece in [piece for name in names for piece in self.pieces(name)]:
                if piece.attribute is None or piece.attribute in attributes:
                    names |= piece.names
                    attributes |= piece.attributes
                    texts.add(piece.text)
        return texts

    def pieces(self, name: Name) -> list[_Piece]:
        """Pieces of a definition, and of the statements without a name in its module."""
        if name not in self._pieces:
            definitions = self.definitions[name[0]]
            statements = (*definitions[name[1]], *definitions.get("", ()))
            self._pieces[name] = [piece for statement in statements for piece in self._split(name, statement)]
        return self._pieces[name]

    def _split(self, name: Name, statement: ast.stmt) -> Iterator[_Piece]:
        """Split a group of settings that experiments share into its settings with a default, and the rest."""
        module, group = name
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            statement = self._without_members(module, statement)
        if module.startswith("settings") and isinstance(statement, ast.ClassDef) and name not in self.tags:
            fields = [item for item in statement.body if isinstance(item, ast.AnnAssign) and item.value is not None]
            statement = copy.copy(statement)
            statement.body = [item for item in statement.body if item not in fields]
            for item in fields:
                yield _Piece(f"{group}.{_text(item)}", *self._uses(module, item), item.target.id)
        yield _Piece(_text(statement), *self._uses(module, statement))

    def _without_members(self, module: str, statement: ast.stmt) -> ast.stmt:
        """Copy of a constant's statement without the alternatives in its dicts, lists and unions."""

        def is_kept(node: ast.expr) -> bool:
            name = self.find(module, node.id) if isinstance(node, ast.Name) else None
            if name is None or not name[1] or self.alternative(name) is None:
                return True
            self.members.add(name)
            return False

        class Prune(ast.NodeTransformer):
            def visit_Dict(self, node: ast.Dict) -> ast.AST:
                pairs = [(k, v) for k, v in zip(node.keys, node.values, strict=True) if is_kept(v)]
                node.keys, node.values = [k for k, _ in pairs], [v for _, v in pairs]
                return self.generic_visit(node)

            def visit_Tuple(self, node: ast.Tuple | ast.List) -> ast.AST:
                node.elts = [item for item in node.elts if is_kept(item)]
                return self.generic_visit(node)

            visit_List = visit_Tuple

            def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
                sides = [side for side in (self.visit(node.left), self.visit(node.right)) if is_kept(side)]
                if len(sides) == 2:
                    node.left, node.right = sides
                    return node
                return sides[0] if sides else ast.Constant(None)

        return Prune().visit(copy.deepcopy(statement))


def _tag(node: ast.ClassDef) -> str | None:
    """Name by which an experiment chooses a class, stated by a field such as ``name: Literal["focal"] = "focal"``."""
    for item in node.body:
        value = getattr(getattr(item, "value", None), "value", None)
        is_text = isinstance(item, ast.AnnAssign) and isinstance(value, str)
        if is_text and ast.unparse(item.annotation) == f"Literal[{value!r}]":
            return value
    return None


def _defined(statement: ast.stmt) -> set[str]:
    """Names that a statement defines; the empty name for a statement that only has an effect."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    nodes = ast.walk(statement)
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)} or {""}


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def _text(node: object) -> str:
    """Text of a syntax tree. The text of ``ast.dump`` depends on the version of Python; this text does not.

    Empty fields are left out, since newer versions of Python add fields.
    """
    if isinstance(node, list):
        return "[" + ",".join(_text(item) for item in node if not _has_no_effect(item)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    named = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment"))
    fields = (f"{name}={_text(value)}" for name, value in named if value is not None and value != [])
    return f"{type(node).__name__}({','.join(fields)})"


def _has_no_effect(node: object) -> bool:
    """Whether a statement decides no number: an import, or a docstring (of a constant, too)."""
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
