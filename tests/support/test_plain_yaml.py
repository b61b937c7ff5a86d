"""YAML has one meaning or is refused in one line that names the file, the line and the remedy."""

import os
import time

import pytest

from workbench.support.errors import WorkbenchError
from workbench.support.plain_yaml import read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 29))
ANOTHER_MEANING = "has another meaning in YAML; write a decimal number, true or false, or put a text in quotes"
MISTAKES = {
    "bomb of aliases": (BOMB, "line 1: anchors and aliases (& and *) are not supported; write the value itself"),
    "alias to itself": ("a: &x [*x]", "line 1: anchors and aliases"),
    "unknown alias": ("a: *x", "line 1: anchors and aliases"),
    "anchor of a key": ("&x a: 1", "line 1: a key that is not a plain text; write a name"),
    "merge key": ("a: 1\n<<: {b: 1}", "line 2: merge keys (<<) are not supported; write the keys themselves"),
    "duplicate key": ("a: 1\nb: 2\na: 3", "line 3: not valid YAML: duplicate key 'a'; correct it"),
    "duplicate key in a flow mapping": ("x: {a: 1, 'a': 2}", "line 1: not valid YAML: duplicate key 'a'; correct it"),
    "duplicate number as a key": ("1: 1\n1: 2", "line 2: not valid YAML: duplicate key '1'; correct it"),
    "list as a key": ("? [a]\n: 1", "line 1: a key that is not a plain text; write a name"),
    "mapping as a key": ("{a: 1}: 1", "line 1: a key that is not a plain text; write a name"),
    "call of Python": ("a: !!python/object/apply:os.system [ls]", "line 1: the tag !!python/object/apply:os.system;"),
    "name of Python": ("a: !!python/name:os.system", "line 1: the tag !!python/name:os.system; remove it"),
    "tag of a key": ("!!str a: 1", "line 1: a key that is not a plain text"),
    "binary": ("a: !!binary aGk=", "line 1: the tag !!binary; remove it"),
    "set": ("a: !!set {b}", "line 1: the tag !!set; remove it"),
    "own tag": ("a: !x 1", "line 1: the tag !x; remove it"),
    "integer of 5,000 digits": ("a: " + "9" * 5000, "line 1: the number 99999999999999999999… is too large; write a"),
    "1e400": ("a: 1e400", "line 1: the number 1e400 is too large; write a smaller one, or a text in quotes"),
    "-1.0e+999": ("a: -1.0e+999", "line 1: the number -1.0e+999 is too large; write a smaller one"),
    "nested lists": ("a: " + "[" * 100_000, "line 1: nested more than 20 levels deep; correct the brackets"),
    "nested mappings": ("{a: " * 100_000, "line 1: nested more than 20 levels deep; correct the brackets"),
    "nested blocks": ("\n".join(" " * i + "a:" for i in range(99)), "line 21: nested more than 20 levels deep"),
    "NUL": ("a: b\0", "line 1: the control character #x0000; remove it"),
    "NUL as an escape": ('\na: "b\\0"', "line 2: the control character #x0000; remove it"),
    "bell in a key": ('"a\\a": 1', "line 1: the control character #x0007; remove it"),
    "lone surrogate": ('a: "\\ud800"', "line 1: not valid YAML: found invalid Unicode character escape code"),
    "tab": ("a:\n\tb: 1", "line 2: not valid YAML: found character '\\t' that cannot start any token; correct it"),
    "two documents": ("a: 1\n---\nb: 1\n", "line 3: a second document in the file; keep one document"),
    "empty second document": ("a: 1\n---\n", "line 3: a second document in the file; keep one document"),
    "open bracket": ("a: [1, 2", "line 1: not valid YAML: expected ',' or ']', but got '<stream end>'; correct it"),
    "UTF-16": ("a: é".encode("utf-16"), "settings are in UTF-16, not in UTF-8; save the file in UTF-8"),
    "Windows code page": ("a: 1\nb: é".encode("cp1252"), "settings are not text in UTF-8 (line 2); save the file"),
    "nothing": ("", "expected a mapping of keys to values, not null; correct it"),
    "comments": ("# a: 1\n", "expected a mapping of keys to values, not null; correct it"),
    "list": ("- a\n", "expected a mapping of keys to values, not ['a']; correct it"),
    "text": ("|\n  a\n  b\n", "expected a mapping of keys to values, not a b"),
    "number": ("1", "expected a mapping of keys to values, not 1; correct it"),
} | {
    word: (f"- x\n- {{a: [{word}]}}", f"line 2: '{word}' {ANOTHER_MEANING}")
    for word in (
        *("yes", "No", "ON", "off", "010", "-017", "0x1F", "0b11", "1_000", "1_0.5", "1:30", "190:20:30.15"),
        *(".inf", "-.INF", "+.inf", ".nan", ".NaN", "2024-05-01", "2001-12-14t21:59:43.10-05:00", "="),
    )
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_within_a_second(mistake, tmp_path):
    content, expected = MISTAKES[mistake]
    (tmp_path / "a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    with pytest.raises(WorkbenchError) as error:
        read_yaml(tmp_path / "a.yaml")
    assert time.monotonic() - start < 1
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/a.yaml")
    assert expected in message
    assert "\n" not in message


def test_plain_values_have_the_type_that_they_look_like(tmp_path):
    (tmp_path / "a.yaml").write_bytes(
        b"\xef\xbb\xbf"
        + """
integers: [0, -1, +12, 9223372036854775807]
floats: [1.0, -.5, 5., 1e5, 1e-4, 1.0e+18, 0.1, 010.5]
words: [true, False, ~, null, ]
texts: ["yes", '010', "1e400", ".inf", v1, 1x, 32x4d, no way, 08x, ä ☃ 😀, '']
nothing:
1: a number
yes: a word
2024-05-01: a date
"<<": quoted
folded: >
  two
  lines
""".encode()
    )
    content = read_yaml(tmp_path / "a.yaml")
    assert repr(content) == repr(
        {
            "integers": [0, -1, 12, 9223372036854775807],
            "floats": [1.0, -0.5, 5.0, 100000.0, 0.0001, 1e18, 0.1, 10.5],
            "words": [True, False, None, None],
            "texts": ["yes", "010", "1e400", ".inf", "v1", "1x", "32x4d", "no way", "08x", "ä ☃ 😀", ""],
            "nothing": None,
            "1": "a number",
            "yes": "a word",
            "2024-05-01": "a date",
            "<<": "quoted",
            "folded": "two lines\n",
        }
    )


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "dangling link"])
def test_what_is_not_a_file_is_reported_without_waiting(kind, tmp_path):
    path = tmp_path / "a.yaml"
    make = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "dangling link": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    with pytest.raises(WorkbenchError, match=r"a\.yaml: settings (cannot be read \(this is|not found)") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)
