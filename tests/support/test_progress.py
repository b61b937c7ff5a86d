"""A reporter prints lines in a log: at most one per interval, with the remaining time."""

import pytest

from workbench.support import progress


@pytest.fixture
def clock(monkeypatch):
    """Clock that a test sets; the reporter measures time with it."""
    clock = {"now": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return clock


def test_lines_are_printed_at_intervals_and_at_the_end(clock, capsys):
    with progress.Reporter("r50 seed0", total=10) as reporter:
        for step in range(1, 11):
            clock["now"] += 4
            reporter.advance(step, "images")
    assert capsys.readouterr().err.splitlines() == [
        "r50 seed0: 4/10  images  24 s left",
        "r50 seed0: 8/10  images  8 s left",
        "r50 seed0: 10/10  images  0 s left",
    ]


def test_a_resumed_task_estimates_the_time_from_its_first_step(clock, capsys):
    with progress.Reporter("r50", total=100) as reporter:
        reporter.resume(80)
        clock["now"] += 20
        reporter.advance(90)
    assert "20 s left" in capsys.readouterr().err


def test_a_training_step_reports_the_last_validation_ap(clock, capsys):
    with progress.Reporter("r50", total=10) as reporter:
        reporter.step(1, 1, 2, loss=0.5, images_per_second=30.0)
        reporter.step(2, 1, 2, loss=0.25, images_per_second=30.0, ap=0.123)
        clock["now"] += 16
        reporter.step(3, 2, 2, loss=0.125, images_per_second=30.0)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("r50: 2/10  epoch 1/2  loss 0.250  30 img/s  val AP 12.3")
    assert second.startswith("r50: 3/10  epoch 2/2  loss 0.125  30 img/s  val AP 12.3")


def test_a_quiet_reporter_prints_nothing(clock, capsys):
    with progress.Reporter("r50", total=1, quiet=True) as reporter:
        reporter.say("resumed")
        reporter.advance(1)
    assert capsys.readouterr().err == ""
