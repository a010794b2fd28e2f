"""The documentation: its links lead somewhere, and its lines can be read in a diff."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 600  # characters of a line
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
CODE = re.compile(r"```.*?```|^    .*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


def pages(root: Path) -> list[Path]:
    """Returns the Markdown files at the top of a repository and in its docs."""
    return sorted((*root.glob("*.md"), *(root / "docs").rglob("*.md")))


def anchor(heading: str) -> str:
    """Returns what a page on GitHub calls a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """Returns the relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if ELSEWHERE.match(link):
            continue
        name, _, part = link.partition("#")
        target = page.parent / name if name else page
        found = target.exists()
        if found and part:
            headings = HEADING.findall(target.read_text(encoding="utf-8"))
            found = part in map(anchor, headings)
        if not found:
            broken.append(link)
    return broken


def long_lines(page: Path) -> list[int]:
    """Returns the numbers of the lines that are longer than LONGEST."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [n for n, line in enumerate(lines, 1) if len(line) > LONGEST]


def page_of(folder: Path, text: str) -> Path:
    """Writes a page beside another one with the heading "Where: here"."""
    (folder / "other.md").write_text("# Other\n\n## Where: here\n", encoding="utf-8")
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize(
    "link", ["gone.md", "other.md#nowhere", "#nowhere", "other/", "../no.md"]
)
def test_a_link_that_leads_nowhere_is_found(tmp_path, link):
    assert broken_links(page_of(tmp_path, f"# Page\n\nSee [it]({link}).\n")) == [link]


@pytest.mark.parametrize(
    "text",
    [
        "[a](other.md) and [b](other.md#where-here) and [c](#page)",
        "![image](other.md)",
        "[site](https://example.org/gone.md) [mail](mailto:a@example.org)",
        "`x[0](y)` is code",
        "    also[0](code)",
        "```\nand[0](this)\n```",
    ],
)
def test_a_link_that_leads_somewhere_is_none(tmp_path, text):
    assert broken_links(page_of(tmp_path, f"# Page\n\n{text}\n")) == []


def test_a_long_line_is_found(tmp_path):
    text = f"short\n{'x' * LONGEST}\n{'x' * (LONGEST + 1)}\n"
    assert long_lines(page_of(tmp_path, text)) == [3]


def test_every_relative_link_leads_somewhere():
    broken = {str(page.relative_to(ROOT)): broken_links(page) for page in pages(ROOT)}
    assert {name: links for name, links in broken.items() if links} == {}


def test_no_line_is_too_long():
    long = {str(page.relative_to(ROOT)): long_lines(page) for page in pages(ROOT)}
    assert {name: lines for name, lines in long.items() if lines} == {}


def test_every_page_of_the_docs_is_reached_from_the_index():
    """By links alone, from docs/README.md on."""
    due, reached = [ROOT / "docs" / "README.md"], set()
    while due:
        page = due.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            target = (page.parent / link.partition("#")[0]).resolve()
            if not ELSEWHERE.match(link) and target.suffix == ".md":
                due.append(target)
    docs = {page for page in pages(ROOT) if ROOT / "docs" in page.parents}
    assert docs - reached == set()
