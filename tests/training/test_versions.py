"""A training whose code changed states every version of its code."""

import json

import torch

from tests.training.stops import train_until
from tests.trainings import train_experiment
from workbench.training import versions

FIRST, SECOND = "shared:11111111 vfnet:22222222", "shared:33333333 vfnet:22222222"


def facts_of(folder):
    return json.loads((folder / "train.json").read_text())


def use_code(monkeypatch, digest, commit):
    monkeypatch.setattr(versions, "code_digest", lambda experiment: digest)
    monkeypatch.setattr(versions, "git_commit", lambda: commit)


def test_a_training_that_was_resumed_with_other_code_states_both(
    tiny_experiment, tiny_data, tmp_path, monkeypatch, capsys
):
    use_code(monkeypatch, FIRST, "a")
    train_until(2, tiny_experiment, tmp_path, tiny_data)
    use_code(monkeypatch, SECOND, "b")
    train_until(3, tiny_experiment, tmp_path, tiny_data)
    line = f"the code has changed since step 2 ({FIRST}, now {SECOND}); train.json will state both versions\n"
    assert line in capsys.readouterr().err
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert "the code has changed" not in capsys.readouterr().err
    facts = facts_of(tmp_path)
    assert facts["versions_of_code"] == [
        {"first_step": 1, "code_digest": FIRST, "git_commit": "a"},
        {"first_step": 3, "code_digest": SECOND, "git_commit": "b"},
    ]
    assert facts["code_digest"] == "shared:11111111 vfnet:22222222 shared:33333333"
    assert facts["git_commit"] == "b"


def test_a_training_with_one_version_of_the_code_states_the_code_of_its_start(
    tiny_experiment, tiny_data, tmp_path, monkeypatch, capsys
):
    """A commit without a change of the code is not another version. Nor is a change of the files that are loaded."""
    use_code(monkeypatch, FIRST, "a")
    train_until(2, tiny_experiment, tmp_path, tiny_data)
    use_code(monkeypatch, FIRST, "b")
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert "the code has changed" not in capsys.readouterr().err
    facts = facts_of(tmp_path)
    assert facts["versions_of_code"] == [{"first_step": 1, "code_digest": FIRST, "git_commit": "a"}]
    assert (facts["code_digest"], facts["git_commit"]) == (FIRST, "a")


def test_a_checkpoint_that_states_no_code_is_of_unknown_code(tiny_experiment, tiny_data, tmp_path, monkeypatch):
    use_code(monkeypatch, FIRST, "a")
    train_until(2, tiny_experiment, tmp_path, tiny_data)
    file = tmp_path / "checkpoints" / "last.pt"
    content = torch.load(file)
    del content["versions"]
    torch.save(content, file)
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert facts_of(tmp_path)["code_digest"] == f"unknown {FIRST}"
