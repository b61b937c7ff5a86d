"""``workbench data`` on data sets with faults: all faults of all files are reported at once, one line each."""

from tests.commands.made_data import cells


def test_all_faults_of_all_files_are_reported_at_once(call, data_set, tmp_path):
    """The page of a split without faults is written, and states the faults, too."""
    data_set.annotations["train2017"][0]["bbox"] = [1, 2]
    data_set.annotations["train2017"][1]["image_id"] = 99
    data_set.add("val2017").write_bytes(b"letters")
    data_set.add("val2017").unlink()
    data_set.write()
    code, out, err = call(data_set.root, "--out", tmp_path / "out")
    assert code == 1
    train, val = err.splitlines()
    assert train.startswith("workbench: ")
    assert "instances_train2017.json: 2 kinds of faults: (1) " in train
    assert "2.png: not a readable JPEG" in val
    assert "2 of 3 images" in val
    assert "1 x no such image (first: 3.png)" in val
    assert cells(out, "images") == ["3"]  # of val2017
    assert cells(out, "images also in another split (equal bytes)") == ["–"]
    page = (tmp_path / "out/data.html").read_text()
    assert "2 kinds of faults" in page
    assert "1 x no such image" in page
    assert page.count("<img") == 1


def test_a_split_without_its_file_is_a_fault_beside_the_faults_of_the_other(call, data_set):
    (data_set.root / "annotations/instances_train2017.json").unlink()
    (data_set.root / "annotations/instances_val2017.json").write_text("{")
    code, out, err = call(data_set.root)
    assert code == 1
    assert "instances_train2017.json: no such annotation file; put" in err
    assert "instances_val2017.json: not valid JSON" in err
    assert len(err.splitlines()) == 2
    assert "data.html" not in out


def test_a_data_set_without_an_object_or_an_image_has_faults(call, data_set):
    data_set.annotations["train2017"].clear()
    data_set.write("train2017")
    data_set.write("val2017", images=[], annotations=[])
    code, _, err = call(data_set.root)
    assert code == 1
    assert "instances_train2017.json: no objects to learn; add some" in err
    assert "instances_val2017.json: no images to test on; add some" in err


def test_a_missing_folder_is_one_line(call, tmp_path):
    code, out, _ = call(tmp_path / "nowhere")
    assert str(code).startswith(f"workbench: {tmp_path}/nowhere: no such data folder; choose")
    assert out == ""
