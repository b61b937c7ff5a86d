"""Losses that stay on a GPU for many steps: nothing else changes, and no bad loss is lost."""

import pytest
import torch
from safetensors.torch import load_file

from tests.training.stops import log_of
from tests.trainings import train_experiment
from workbench.support.errors import WorkbenchError
from workbench.training import loop, step


@pytest.fixture
def late(monkeypatch):
    """Read losses as rarely as on a GPU, and log rarely."""

    class Late(step.RecentLosses):
        def __init__(self, device):
            super().__init__(device)
            self.most = step.READ_EVERY

    def start(every=True):
        monkeypatch.setattr(loop, "LOG_ROWS", 1)
        if every:
            monkeypatch.setattr(loop, "RecentLosses", Late)

    return start


def bad_at(monkeypatch, number, name="cls"):
    """Give a term of a step no value."""
    whole = loop.take_step

    def take_step(state, canvases):
        terms, rate = whole(state, canvases)
        return (terms | {name: torch.tensor(torch.nan)} if state.step == number else terms), rate

    monkeypatch.setattr(loop, "take_step", take_step)


def test_weights_and_log_are_the_same(tiny_experiment, tiny_data, tmp_path, late):
    late(every=False)
    train_experiment(tiny_experiment, tmp_path / "each", tiny_data)
    late()
    train_experiment(tiny_experiment, tmp_path / "late", tiny_data)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("each", "late"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert log_of(tmp_path / "each") == log_of(tmp_path / "late")


def test_the_step_with_the_bad_loss_is_named_before_a_checkpoint(
    tiny_experiment, tiny_data, tmp_path, late, monkeypatch
):
    late()
    with monkeypatch.context() as patch:
        names = []
        patch.setattr(step.RecentLosses, "add", record(names, step.RecentLosses.add))
        bad_at(patch, 1)
        with pytest.raises(WorkbenchError) as error:
            train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert len(names) > 2  # the steps after it were made before the loss was read
    assert str(error.value).startswith("step 1: the loss is not finite (cls nan, ")
    assert f"on the images {', '.join(names[1])};" in str(error.value)
    assert not (tmp_path / "checkpoints" / "last.pt").exists()


def test_a_bad_loss_comes_before_an_image_that_cannot_be_read(tiny_experiment, tiny_data, tmp_path, late, monkeypatch):
    late()
    bad_at(monkeypatch, 0)
    canvases = loop.islice

    def broken(stream, count):
        if broken.done == 2:
            raise WorkbenchError("a broken image")
        broken.done += 1
        return canvases(stream, count)

    broken.done = 0
    monkeypatch.setattr(loop, "islice", broken)
    with pytest.raises(WorkbenchError, match=r"^step 0: the loss is not finite"):
        train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert not (tmp_path / "checkpoints" / "last.pt").exists()


def test_weights_that_are_not_finite_are_no_checkpoint(tiny_experiment, tiny_data, tmp_path, monkeypatch):
    """An infinite gradient of a finite loss."""
    whole = loop.take_step

    def take_step(state, canvases):
        result = whole(state, canvases)
        with torch.no_grad():
            next(state.detector.parameters()).fill_(torch.inf)
        return result

    monkeypatch.setattr(loop, "take_step", take_step)
    short = tiny_experiment.training.model_copy(update={"limit_steps": 1})
    with pytest.raises(WorkbenchError, match=r"^step 1: the weights are not finite, and the last checkpoint is kept"):
        train_experiment(tiny_experiment.model_copy(update={"training": short}), tmp_path, tiny_data)
    assert not list(tmp_path.glob("checkpoints/*.pt"))


def record(names, add):
    def adding(self, number, terms, canvases, seconds):
        names.append([name for canvas in canvases for name in canvas.file_names])
        add(self, number, terms, canvases, seconds)

    return adding
