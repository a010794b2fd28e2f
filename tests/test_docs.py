"""The documentation: its links lead somewhere, and its lines can be read in a diff."""

import ast
import re
from pathlib import Path

import pytest

from ad3d_jax import image_files
from ad3d_jax.features import formats
from ad3d_jax.workdir import json_files
from data_pipelines import clouds, tiff_tags

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 600  # characters of a line
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
CODE = re.compile(r"```.*?```|^    .*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
NAMED_TEST = re.compile(r"`([^`\s]*::[^`\s]*)`")
ROW = re.compile(r"^\| (B?\d+) \|.*$", re.MULTILINE)
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


def absent_tests(page: Path, root: Path) -> list[str]:
    """Returns the tests that a page names as `path::name` and that are not there."""
    absent = []
    for name in NAMED_TEST.findall(page.read_text(encoding="utf-8")):
        file, _, function = name.partition("::")
        there = (root / file).is_file() and file.endswith(".py")
        tree = ast.parse((root / file).read_text(encoding="utf-8")) if there else None
        found = {getattr(node, "name", "") for node in tree.body} if tree else set()
        if function not in found or not function.startswith("test_"):
            absent.append(name)
    return absent


def test_a_test_that_is_not_there_is_found(tmp_path):
    (tmp_path / "a.py").write_text("def test_b(): pass\ndef c(): pass\n")
    named = ["a.py::test_b", "a.py::test_d", "a.py::c", "b.py::test_b", "a.py::test_b["]
    page = page_of(tmp_path, " ".join(f"`{name}`" for name in named))
    assert absent_tests(page, tmp_path) == named[1:]


def test_every_fault_has_tests_that_are_there():
    page = ROOT / "docs" / "reliability.md"
    assert absent_tests(page, ROOT) == []
    text = page.read_text(encoding="utf-8")
    rows = {row[1]: row[0] for row in ROW.finditer(text)}
    assert list(rows) == [*map(str, range(1, 81)), *(f"B{k}" for k in range(1, 18))]
    assert [number for number, row in rows.items() if "::" not in row] == []


def test_the_limits_of_the_security_policy_are_those_of_the_code():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    kib, mib = 2**10, 2**20
    for limits in (
        f"{image_files.MAX_BYTES // mib} MiB; sides of {image_files.MIN_SIDE} to "
        f"{image_files.MAX_SIDE} pixels",
        f"{image_files.MAX_PARTS}; {image_files.MAX_METADATA // mib} MiB without "
        f"pixels; {image_files.MAX_EXIF // kib} KiB of Exif",
        f"{tiff_tags.MAX_TAGS}; {tiff_tags.MAX_TAG_BYTES // mib} MiB of values",
        f"{clouds.MAX_BYTES // mib} MiB; a header of {clouds.MAX_HEADER // kib} KiB",
        f"{formats.INFLATION} times their size, or to {formats.SMALL // mib} MiB",
        f"{json_files.DEEPEST} objects one within another",
    ):
        assert f"| {limits}" in text or f"to {limits}" in text, limits
