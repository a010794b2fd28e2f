"""Hooks of mkdocs: the menu, pages from outside docs/, the reference of the modules.

The pages are written to be read in the repository. Here their links are made to lead
to the same places on the site, and what the site does not hold is linked where
`Repository` of `[project.urls]` in pyproject.toml says, or is plain text without it.
"""

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import ad3d_jax

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages of the repository that the site has too, and where.
BROUGHT = {
    "README.md": "project/overview.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}
PACKAGES = ("ad3d_jax", "data_pipelines")
# Code, in which nothing is a link, or a link, whose text may hold code.
CODE_OR_LINK = re.compile(
    r"```.*?```|^    .*?$|`[^`\n]*`|\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)",
    re.DOTALL | re.MULTILINE,
)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#")


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Makes the menu, anchors as the repository's pages have them, and its address."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    config.repo_url = project["project"].get("urls", {}).get("Repository")
    config.nav = menu((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    config.mdx_configs["toc"]["slugify"] = anchor
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the brought pages and the reference."""
    from mkdocs.structure.files import File

    for name, place in BROUGHT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    for place, text in reference().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(
    markdown: str, page: "Page", config: "MkDocsConfig", files: "Files"
) -> str:
    """Turns the links of a page into those of the site."""
    place = page.file.src_uri
    at = {to: name for name, to in BROUGHT.items()}.get(place, f"docs/{place}")
    return relinked(markdown, at, config.repo_url or "")


def anchor(heading: str, separator: str = "-") -> str:
    """Returns what a page in the repository calls a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def relinked(markdown: str, at: str, repository: str) -> str:
    """Returns the text of a file `at` a path of the repository with the site's links.

    Args:
        markdown: text of the file.
        at: path of the file below the root.
        repository: address of the repository, "" where there is none.
    """

    def link(found: re.Match) -> str:
        text, target = found["text"], found["target"]
        if target is None or ELSEWHERE.match(target):
            return found[0]
        name, mark, part = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(at), name))
        to = place_of(path)
        if to:
            start = os.path.dirname(place_of(at) or "")
            return f"[{text}]({os.path.relpath(to, start)}{mark}{part})"
        return f"[{text}]({repository}/blob/main/{path})" if repository else text

    return CODE_OR_LINK.sub(link, markdown)


def place_of(path: str) -> str | None:
    """Returns where the site has a file of the repository, None where it has not."""
    if path in BROUGHT:
        return BROUGHT[path]
    inside = path.startswith("docs/") and (ROOT / path).is_file()
    return path.removeprefix("docs/") if inside else None


def menu(index: str) -> list:
    """Returns the menu: the sections of the index with the pages that it names.

    A page stands where it is named first. Pages that the index does not name, such as
    the notes of results, follow in the section of their folder's own page.
    """
    _, *sections = re.split(r"^## ", index, flags=re.MULTILINE)
    entries, seen = [{"Documentation": "README.md"}], {"README.md"}
    for section in sections:
        title, _, text = section.partition("\n")
        pages = []
        for found in CODE_OR_LINK.finditer(text):
            name, target = found["text"], found["target"] or ""
            place = place_of(os.path.normpath(f"docs/{target.partition('#')[0]}"))
            if place and place.endswith(".md") and place not in seen:
                pages.append({name: place})
                seen.add(place)
                pages += notes(place, seen)
        if pages:
            entries.append({title.strip(): pages})
    entries.append({"Project": [x for x in BROUGHT.values() if x not in seen]})
    first, *modules = reference()
    packages = [
        {name: [page for page in modules if page.startswith(f"reference/{name}.")]}
        for name in PACKAGES
    ]
    entries.append({"Reference": [first, *packages]})
    return entries


def notes(place: str, seen: set[str]) -> Iterator[dict]:
    """Yields the pages below the folder whose README.md the place is."""
    if not place.endswith("/README.md"):
        return
    for path in sorted((ROOT / "docs" / place).parent.rglob("*.md")):
        below = path.relative_to(ROOT / "docs").as_posix()
        if below not in seen:
            seen.add(below)
            yield {path.parent.name: below}


def reference() -> dict[str, str]:
    """Returns the pages of the reference, by place: public names, then modules."""
    title = "# Public names\n\nWhat `import ad3d_jax as ad` offers:\n"
    names = []
    for name, home in ad3d_jax._HOMES.items():
        says = about(home, name)
        target = f"{home}.{name}" if says else home  # only what says something is shown
        names.append(f"- [`ad.{name}`][{target}] {says}")
    pages = {"reference/README.md": "\n".join([title, *names])}
    for package in PACKAGES:
        for entry in sorted((ROOT / package).glob("[a-z]*")):
            modules = list(modules_of(entry))
            if modules:
                name = f"{package}.{entry.stem}"
                lines = [f"# {name}\n", *(f"::: {module}" for module in modules)]
                pages[f"reference/{name}.md"] = "\n".join(lines)
    return pages


def about(module: str, name: str) -> str:
    """Returns the first line of the docstring of a module's class or function."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if getattr(node, "name", "") == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def modules_of(entry: Path) -> Iterator[str]:
    """Yields the public modules of a file or a folder of a package, by dotted name."""
    paths = sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]
    for path in paths:
        name = path.relative_to(ROOT).as_posix().removesuffix("/__init__.py")
        if path.suffix == ".py" and "/_" not in name:
            yield name.removesuffix(".py").replace("/", ".")
