"""README.md stays short, its sentences too, and the links of all pages lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "notebooks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_WORDS = 900
LONG, LONGEST = 25, 30
"""Words of a sentence; one may be longer than the first number, and none longer than the second."""


def prose(text: str) -> str:
    """The text without code blocks, headings, tables and images; each list item and paragraph ends with a blank line."""
    text = re.sub(r"^```.*?^```$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(#|\||!\[).*$", "\n", text, flags=re.MULTILINE)
    return re.sub(r"^(\s*([-*]|\d+\.) )", r"\n\n", text, flags=re.MULTILINE)


def sentences(text: str) -> list[str]:
    """Split at a blank line, and after a full stop, question mark or colon that a space follows; a link counts as its text."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose(text))
    parts = [part for paragraph in re.split(r"\n\s*\n", text) for part in re.split(r"(?<=[.?!:])\**\s+(?=[A-Z`\[*])", paragraph)]
    return [" ".join(part.split()) for part in parts if part.strip()]


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if re.match(r"https?://", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_the_sentences_of_the_readme_are_short() -> None:
    texts = sentences(README.read_text(encoding="utf-8"))
    assert len(texts) > 30
    long = [sentence for sentence in texts if len(sentence.split()) > LONG]
    assert len(long) <= 1 and all(len(sentence.split()) <= LONGEST for sentence in long), long


def test_sentences_are_found() -> None:
    text = "# A heading\n\nOne two. Three `four`\nfive.\n\n```bash\nsix\n```\n\n- seven: [Eight nine](ten.md).\n- eleven\n\n|a|b|\n|-|-|\n"
    assert sentences(text) == ["One two.", "Three `four` five.", "seven:", "Eight nine.", "eleven"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert [*broken_links(page)] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, `here`\n[a](page.md#a-heading-here) [b](#nowhere) [c](missing.md) [d](https://example.org)\n```\n[e](code.md)\n```\n")
    assert [*broken_links(page)] == ["#nowhere", "missing.md"]
