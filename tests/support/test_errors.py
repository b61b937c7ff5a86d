"""Messages of libraries are shortened to one line."""

import pytest

from workbench.support.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (RuntimeError("size mismatch:\n\tshapes differ\nmore"), "size mismatch: shapes differ"),
        (RuntimeError("ends:"), "ends:"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_second_line_is_added_only_after_a_colon(error, line):
    assert one_line(error) == line


def test_the_system_error_behind_a_library_s_error_is_reported():
    error = RuntimeError("unexpected pos 64 vs 10")
    error.__context__ = OSError(28, "No space left on device")
    assert one_line(error) == "[Errno 28] No space left on device"
