"""Pages of the documentation and the parts of them that the tests check."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "results" / name for name in ("README.md", "reference/README.md")),
]


def page_id(page: Path) -> str:
    """Name of a page for pytest."""
    return str(page.relative_to(ROOT))


def code_blocks(text: str, language: str) -> list[str]:
    """Content of the code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Page without code blocks and comments."""
    return re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)


def code_spans(text: str) -> list[str]:
    """Code in the prose, between backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(text))


def commands(text: str) -> list[str]:
    """Commands of the bash blocks, without comments."""
    lines = [
        re.sub(r"(^|\s)#.*", "", line).strip() for block in code_blocks(text, "bash") for line in block.splitlines()
    ]
    return [line for line in lines if line]
