"""The drawn layouts of other tools, converted: boxes, classes and splits are the drawn ones."""

import json
from pathlib import Path

import pytest

from tests.convert.small import objects_of
from workbench import cli


@pytest.mark.parametrize("form", ["voc", "yolo", "createml", "labelme"])
def test_a_converted_layout_has_the_drawn_boxes_classes_and_splits(drawn_layouts, tmp_path, form, monkeypatch, capsys):
    expected = json.loads((drawn_layouts / "expected.json").read_text())
    monkeypatch.setattr("sys.argv", ["workbench", "convert", form, str(drawn_layouts / form), str(tmp_path / "out")])
    cli.main()
    objects = objects_of(tmp_path / "out")
    assert objects.keys() == expected.keys()
    for split, images in expected.items():
        found = {Path(name).stem: sorted(things) for name, things in objects[split].items()}
        assert found.keys() == images.keys()
        for name, things in images.items():
            assert [thing[0] for thing in found[name]] == [thing[0] for thing in sorted(things)]
            for thing, true in zip(found[name], sorted(things), strict=True):
                assert thing[1:] == (pytest.approx(true[1:], abs=0.001) if form == "yolo" else true[1:])
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("train ")]
    assert table == [["train", "24", "->", "24", "35", "->", "35", "0", "->", "0", "2", "->", "2"]]
