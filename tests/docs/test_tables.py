"""Measured tables and figures of the documentation are those of results/reference."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "fill_tables.py"
_SPEC = importlib.util.spec_from_file_location("fill_tables", SCRIPT)
fill_tables = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fill_tables)

CSV = """row,model,VFL,AP,AP_std,difference,difference_low,difference_high,compared_with,AP_published
a,raw,False,30.10,0.50,-,-,-,-,39.0
b,full,True,34.25,0.10,4.15,3.00,5.20,a,41.6
c,other,True,-,-,-,-,-,-,42.0
"""
NOT_RUN = "d,late,True,not run,not run,not run,-,-,a,41.0\n"


@pytest.fixture
def reference(tmp_path):
    (tmp_path / "small.csv").write_text(CSV)
    return tmp_path


@pytest.fixture
def copy(tmp_path):
    """A copy of the documentation and the reference results."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "results" / "reference", tmp_path / "results" / "reference")
    for name in ("README.md", "CONTRIBUTING.md", "results/README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(root, *options):
    command = [sys.executable, str(root / "docs" / "fill_tables.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_every_block_is_up_to_date():
    result = run(ROOT, "--check")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_readme_and_the_results_have_blocks():
    assert '<!-- table: mini_table3 columns="' in (ROOT / "README.md").read_text()
    assert (ROOT / "docs" / "results.md").read_text().count("<!-- table: ") >= 9


def test_a_changed_figure_is_found_and_corrected(copy):
    page = copy / "README.md"
    original = page.read_text()
    assert original.count("| 40.7 | +1.7 |") == 1
    page.write_text(original.replace("| 40.7 | +1.7 |", "| 47.0 | +1.7 |"))
    result = run(copy, "--check")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "README.md: <!-- table: mini_table3 " in result.stderr
    assert "is out of date; run make docs" in result.stderr
    assert "47.0" in page.read_text()  # a check changes nothing
    assert run(copy).returncode == 0
    assert page.read_text() == original


def test_a_changed_measurement_is_found_on_every_page(copy):
    table = copy / "results" / "reference" / "mini_table3.csv"
    table.write_text(table.read_text().replace("VFNet without refinement", "VFNet"))
    lines = run(copy, "--check").stderr.splitlines()
    assert {line.split(":")[0] for line in lines} == {"README.md", "docs/results.md"}


def test_joined_files_are_one_table(reference):
    for scale, ap in (("first", "11.0"), ("second", "22.0")):
        (reference / f"{scale}_small.csv").write_text(f"row,model,AP\na,raw,{ap}\n")
    text = '<!-- table: first_small+second_small by="model" across="scale" columns="AP: " --><!-- end -->'
    filled, _, mistakes = fill_tables.fill(text, reference)
    assert ("| model | first | second |" in filled, "| raw | 11.0 | 22.0 |" in filled, mistakes) == (True, True, [])


def test_a_table_copies_digits_and_marks_the_best(reference):
    text = '<!-- table: small columns="model, VFL, AP, difference: gain, AP_published: published, published difference" best --><!-- end -->'
    filled, changed, mistakes = fill_tables.fill(text, reference)
    assert (len(changed), mistakes) == (1, [])
    assert filled.splitlines()[2:-2] == [
        "| model | VFL | AP | gain | published | published difference |",
        "| :-- | :-: | --: | --: | --: | --: |",
        "| raw |  | 30.10 ± 0.50 | – | 39.0 | – |",
        "| full | ✓ | **34.25 ± 0.10** | +4.15 [+3.00, +5.20] | 41.6 | +2.6 |",
        "| other | ✓ | – | – | **42.0** | – |",
    ]
    assert fill_tables.fill(filled, reference) == (filled, [], [])


def test_a_row_that_was_not_run_says_so(reference):
    (reference / "small.csv").write_text(CSV + NOT_RUN)
    text = '<!-- table: small columns="model, AP, difference" best --><!-- end -->'
    lines = fill_tables.fill(text, reference)[0].splitlines()
    assert lines[3] == "| :-- | --: | --: |"
    assert lines[7] == "| late | not run | not run |"


def test_a_table_selects_rows_and_puts_values_in_columns(reference):
    text = '<!-- table: small by="model" across="VFL" columns="AP: AP of" where="model=raw; model=full" --><!-- end -->'
    assert fill_tables.fill(text, reference)[0].splitlines()[2:-2] == [
        "| model | AP of False | AP of True |",
        "| :-- | --: | --: |",
        "| raw | 30.10 ± 0.50 |  |",
        "| full |  | 34.25 ± 0.10 |",
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("AP row=a", "30.10"),
        ("AP min", "30.10"),
        ("AP max", "34.25"),
        ("difference row=b", "+4.15"),
        ("count", "3"),
        ('count where="VFL=True"', "2"),
        ('tau where="model=raw; model=full"', "1.00"),
    ],
)
def test_a_value_is_one_number(reference, options, text):
    filled, _, mistakes = fill_tables.fill(f"AP is <!-- value: small {options} --><!-- end -->.", reference)
    assert filled == f"AP is <!-- value: small {options} -->{text}<!-- end -->."
    assert mistakes == []


def test_a_lead_is_the_text_above_the_first_table(reference):
    (reference / "claims.md").write_text("## Claims\n\nTwo.\n\nNot one.\n\n### Table 1\n\n| a |\n")
    filled, _, mistakes = fill_tables.fill("<!-- lead: claims --><!-- end -->", reference)
    assert (filled, mistakes) == ("<!-- lead: claims -->\n\nTwo.\n\nNot one.\n\n<!-- end -->", [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<!-- table: large columns="AP" --><!-- end -->', "large.csv is missing"),
        ('<!-- table: small columns="APX" --><!-- end -->', "unknown column 'APX'"),
        ("<!-- table: small --><!-- end -->", "add columns="),
        ('<!-- table: small colums="AP" --><!-- end -->', "unknown option 'colums'"),
        ('<!-- table: small columns="AP" where="model=x" --><!-- end -->', "no row matches"),
        ('<!-- table: small columns="AP --><!-- end -->', "check the quotation marks"),
        ('<!-- table: small columns="AP" -->', "a block has no end"),
        ("<!-- lead: small --><!-- end -->", "small.md is missing"),
        ("a <!-- value: small AP row=z --><!-- end -->", "unknown row 'z'"),
        ("a <!-- value: small AP --><!-- end -->", "3 rows; add row="),
        ("a <!-- value: small --><!-- end -->", "no column"),
        ("<!-- value: small count -->3<!-- end --> rows", "begin it with a word"),
    ],
)
def test_a_mistake_in_a_block_is_named(reference, text, words):
    _, _, mistakes = fill_tables.fill(text, reference)
    assert len(mistakes) == 1
    assert words in mistakes[0]
