"""The site of the documentation: every page is in the menu, links lead somewhere."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site():
    """The hooks, as a module."""
    path = ROOT / "tools" / "docs_site.py"
    spec = importlib.util.spec_from_file_location("docs_site", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(entries) -> list[str]:
    """Returns the places of a menu in their order."""
    if isinstance(entries, str):
        return [entries]
    parts = entries.values() if isinstance(entries, dict) else entries
    return [place for part in parts for place in leaves(part)]


def test_the_menu_has_every_page_once(site):
    docs = ROOT / "docs"
    menu = leaves(site.menu((docs / "README.md").read_text(encoding="utf-8")))
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    project = {f"project/{name}.md" for name in ("contributing", "security")}
    reference = {f"reference/ad3d_jax.{name}.md" for name in ("base", "ops", "nn")}
    assert pages | project | reference <= set(menu)
    assert len(menu) == len(set(menu)) and menu[0] == "README.md"


@pytest.mark.parametrize(
    ("at", "text", "expected"),
    [
        ("docs/install.md", "[a](studies.md#b)", "[a](studies.md#b)"),
        ("docs/systems/btf.md", "[a](../parity.md)", "[a](../parity.md)"),
        ("docs/README.md", "[a](../SECURITY.md)", "[a](project/security.md)"),
        ("README.md", "[a](docs/systems/btf.md)", "[a](../systems/btf.md)"),
        (
            "README.md",
            "![a](docs/images/quickstart.png)",
            "![a](../images/quickstart.png)",
        ),
        ("docs/parity.md", "[a](../tests/parity.py)", "a"),
        ("docs/parity.md", "[`a`](../tests/parity.py)", "`a`"),
        ("docs/parity.md", "[a](https://arxiv.org) [b](#c)", None),
        ("docs/parity.md", "`[a](../tests/parity.py)`", None),
        ("docs/parity.md", "```\n[a](../tests/parity.py)\n```", None),
    ],
)
def test_links_lead_to_the_places_of_the_site(site, at, text, expected):
    assert site.relinked(text, at, "") == (expected or text)


def test_code_is_linked_where_the_repository_has_an_address(site):
    found = site.relinked("[a](../tests/x.py)", "docs/parity.md", "https://h/o/n")
    assert found == "[a](https://h/o/n/blob/main/tests/x.py)"


def test_the_reference_names_modules_that_are_there(site):
    pages = site.reference()
    assert "::: ad3d_jax.ops.knn" in pages["reference/ad3d_jax.ops.md"]
    assert not [place for place in pages if "init" in place]
    assert "[ad3d_jax.experiment.loading.load]" in pages["reference/README.md"]
    names = [
        x[4:] for page in pages.values() for x in page.splitlines() if x[:3] == ":::"
    ]
    files = [ROOT / name.replace(".", "/") for name in names]
    assert len(names) > 100
    assert all(x.is_dir() or x.with_suffix(".py").is_file() for x in files)
