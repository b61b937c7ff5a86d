"""Documents of rows: what a row, its recipe and its scale state, in four layers.

A later layer replaces values of earlier layers:

1. the scale's own settings;
2. the recipe that the row starts from;
3. the scale's counterparts: settings for the backbone, family of detectors, schedule, width and test size that recipe
   and row name;
4. the row's own differences.
"""

from __future__ import annotations

from workbench.settings.files import Catalogue, Scale
from workbench.settings.layers import Layers
from workbench.settings.specs import Differences, RowSpec
from workbench.support.strict_yaml import Place, choose

WORLD = ("data", "image", "head", "training", "evaluation")
"""Groups of settings that a scale states for all its experiments."""

COUNTERPARTS = {"schedule": ("schedules", "training"), "width": ("widths", "head"), "test": ("tests", "evaluation")}
"""Keys of a recipe that name an entry of the scale: key → the scale's section, the group that the entry changes."""


def row_document(catalogue: Catalogue, row: RowSpec, place: Place, scale: Scale) -> Layers:
    """Return the layers of a row at a scale, laid over one another."""
    own = _differences(row, place)
    recipe = _recipe(catalogue, row.base, place.at("base"), ())
    named = named_settings(catalogue, row, place)
    document = scale.layers.pick(WORLD)
    document.lay(recipe)
    for section, name, group in _counterparts(named, scale):
        document.lay(scale.layers.part(section, name), into=group)
    canvas = scale.layers.part("training").pick(["canvas"])
    if canvas.content.get("canvas") == "batch":
        document.lay(canvas, into="training")  # wins over a recipe's number
    document.lay(own)
    return document


def named_settings(catalogue: Catalogue, row: RowSpec, place: Place) -> Layers:
    """Return what a row and its recipe state, without a scale."""
    named = _recipe(catalogue, row.base, place.at("base"), ())
    named.lay(_differences(row, place))
    return named


def _differences(row: RowSpec, place: Place) -> Layers:
    return Layers(row.model_dump(exclude_unset=True, include=set(Differences.model_fields)), place)


def _recipe(catalogue: Catalogue, name: str, place: Place, above: tuple[str, ...]) -> Layers:
    """Return a recipe laid over the recipes that it extends; ``place`` is the key that names the recipe."""
    choose(name, [other for other in catalogue.recipes if other not in above], "recipe", place)
    recipe, file = catalogue.recipes[name], Place("experiments/recipes.yaml", (name,))
    own = Layers(recipe.model_dump(exclude_unset=True, exclude={"extends"}), file)
    if recipe.extends is None:
        return own
    layers = _recipe(catalogue, recipe.extends, file.at("extends"), (*above, name))
    layers.lay(own)
    return layers


def _counterparts(named: Layers, scale: Scale) -> list[tuple[str, str, str]]:
    """Return the scale's counterparts of the names in recipe and row: section, name, and the group it decides."""
    backbone = named.content.get("backbone", {}).get("name")
    choose(backbone, scale.spec.backbones, "backbone", named.place(("backbone", "name")))
    counterparts = [("backbones", backbone, "backbone")]
    family = named.content.get("detector", {}).get("family")
    if family in list(scale.spec.heads):  # a list: a family of the wrong type has no hash
        counterparts.append(("heads", family, "head"))
    for key, (section, group) in COUNTERPARTS.items():
        name = named.content.get(key, "1x" if key == "schedule" else None)
        if name is not None:
            choose(name, getattr(scale.spec, section), key, named.place((key,)))
            counterparts.append((section, name, group))
    return counterparts
