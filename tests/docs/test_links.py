"""Links, paths, commands and targets in the documentation exist."""

import re
import shlex

import pytest
import typer

import workbench
from tests.docs import pages
from workbench.cli import app
from workbench.settings.catalog import load_table
from workbench.settings.config import PipelineConfig
from workbench.settings.files import is_scale_file, scale_names, table_names

ROOT = pages.ROOT

EXAMPLE_FILES = {"experiments/vfnet/mine.yaml", "experiments/vfnet/starts.yaml"}
EXAMPLE_TARGETS = {"my_poly", "mine", "mypaper_table1", "starts"}
"""Files and rows that a page asks the reader to write."""
OTHER_OPTIONS = {
    "--config",
    "--data",
    "--delete-all-output",
    "--set-threads",
    "--set-resources",
    "--slurm-status-command",
    "--lint",
    "--report",
}
"""Options in the prose that are not of ``workbench``: of Snakemake, and one that the changelog names as removed."""

every_page = pytest.mark.parametrize("page", pages.PAGES, ids=pages.page_id)


def anchors(page):
    """Anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", pages.prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text, page):
    """Relative links whose file or heading does not exist."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", pages.prose(text)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    return broken


def missing_paths(text):
    """Paths of the repository in the prose that do not exist."""
    top = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - {"results", "predictions"}
    missing = []
    for span in pages.code_spans(text):
        path = span.rstrip("/")
        is_path = path.split("/")[0] in top and " " not in path and ("/" in path or "." in path)
        is_path = is_path or path.startswith("results/reference/")
        if is_path and not re.search(r"[<*…]", path) and path not in EXAMPLE_FILES and not (ROOT / path).exists():
            missing.append(path)
    return missing


def wrong_words(words, complete):
    """Mistakes in the words of a call of ``workbench``.

    Args:
        words: the words after ``workbench``.
        complete: whether required arguments and options must be there.
    """
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return [f"unknown command {' '.join(words[:1])!r}"]
        command, words = command.commands[words[0]], words[1:]
    context = command.context_class(command, info_name=command.name)
    try:
        values, _, _ = command.make_parser(context).parse_args(list(words))
    except Exception as error:
        if not hasattr(error, "show"):  # not a mistake on the command line
            raise
        return [error.format_message()]
    required = [parameter.name for parameter in command.params if complete and parameter.required]
    return [f"{name} is missing" for name in required if values.get(name) in (None, ())]


def wrong_call(line, complete=True):
    """Mistakes in a command line; programs other than workbench, snakemake and make are not checked."""
    words = shlex.split(line)
    if words[0] == "workbench":
        return wrong_words(words[1:], complete)
    if words[0] == "snakemake":
        return wrong_targets(words[1:])
    if words[0] == "make":
        return [f"unknown make target {w!r}" for w in words[1:] if "=" not in w and not is_make_target(w)]
    return []


def wrong_targets(words):
    """Unknown targets and settings in the words of a call of Snakemake."""
    keys = {word.split("=")[0] for word in words if "=" in word and not word.startswith("-")}
    mistakes = [f"unknown setting {key!r}" for key in sorted(keys - PipelineConfig.model_fields.keys())]
    scales = [word[6:] for word in words if word[:6] == "scale="]
    mistakes += [f"unknown scale {s!r}" for s in scales if s not in scale_names() and not is_scale_file(s)]
    with_value = {"--cores", "--executor", "--workflow-profile", "--report"}
    skip = False
    for word in words:
        if not skip and not word.startswith("-") and "=" not in word and word not in snakemake_targets():
            mistakes.append(f"unknown target {word!r}")
        skip = word in with_value
    return mistakes


def snakemake_targets():
    """Names of all targets of the pipeline."""
    tables = table_names()
    rows = [row.id for table in tables for row in load_table(table)[1]]
    rankings = [f"{table}_ranking" for table in tables]
    return {"all", "tables", "figures", "claims", "evidence", "notebooks", *tables, *rankings, *rows} | EXAMPLE_TARGETS


def is_make_target(name):
    """Whether the Makefile has a target of this name, by a pattern too."""
    lines = re.findall(r"^([A-Za-z_%. -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    patterns = {target.replace("%", r"\w+") for line in lines for target in line.split()}
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def test_the_readme_has_at_most_200_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@every_page
def test_links_lead_to_files_and_headings(page):
    assert broken_links(page.read_text(), page) == []


@every_page
def test_paths_exist(page):
    assert missing_paths(page.read_text()) == []


@every_page
def test_commands_and_targets_exist(page):
    text = page.read_text()
    mistakes = {line: wrong_call(line) for line in pages.commands(text)}
    for span in pages.code_spans(text):
        if re.match(r"(workbench|snakemake|make) ", span) and not re.search(r"[<…]", span):
            mistakes[span] = wrong_call(span, complete=False)
    assert {line: found for line, found in mistakes.items() if found} == {}


@every_page
def test_options_in_the_prose_exist(page):
    group = typer.main.get_command(app)
    commands = [c for command in group.commands.values() for c in getattr(command, "commands", {"": command}).values()]
    options = {option for command in commands for parameter in command.params for option in parameter.opts}
    spans = [span.split()[0] for span in pages.code_spans(page.read_text()) if span.startswith("--")]
    assert set(spans) <= options | OTHER_OPTIONS


@every_page
def test_python_examples_use_the_public_names(page):
    names = {
        n for block in pages.code_blocks(page.read_text(), "python") for n in re.findall(r"workbench\.(\w+)\(", block)
    }
    assert [name for name in sorted(names) if not hasattr(workbench, name)] == []


def test_the_readme_links_to_every_page():
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", (ROOT / "README.md").read_text()))
    assert linked == {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize(
    "line",
    [
        "workbench trian results",
        "workbench plan table3 --scales mini",
        "workbench bench fast table3",
        "workbench plan",
        "snakemake --cores all table33",
        "snakemake --cores all table3 --config scales=coco",
        "snakemake --cores all table3 --config scale=cocoa",
        "make tabel3",
    ],
)
def test_a_wrong_command_is_found(line):
    assert len(wrong_call(line)) == 1


@pytest.mark.parametrize(
    "line", ["workbench plan table3 --scale coco", "snakemake --cores all table3_ranking", "make table3"]
)
def test_a_right_command_passes(line):
    assert wrong_call(line) == []


def test_a_broken_link_and_a_missing_path_are_found():
    page = ROOT / "README.md"
    text = "[a](docs/missing.md), [b](#no-such-heading), [c](#glossary), `workbench/missing.py`, `workbench/cli.py`"
    assert broken_links(text, page) == ["docs/missing.md", "#no-such-heading"]
    assert missing_paths(text) == ["workbench/missing.py"]
