"""Prints the tests that a run skipped for one reason, a line each, for `pytest @FILE`.

    pytest --junitxml=first.xml
    python tools/skipped_tests.py first.xml Open3D > again.txt && pytest @again.txt
"""

import sys
from pathlib import Path
from xml.etree import ElementTree


def skipped(report: Path, word: str) -> list[str]:
    """Returns the node ids of skipped tests whose reason holds a word.

    Args:
        report: that pytest wrote with `--junitxml`; the tests are functions.
        word: of the reason.
    """
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        reasons = [skip.get("message", "") for skip in case.iter("skipped")]
        if any(word in reason for reason in reasons):
            file = case.get("classname").replace(".", "/")
            found.append(f"{file}.py::{case.get('name')}")
    return found


if __name__ == "__main__":
    print(*skipped(Path(sys.argv[1]), sys.argv[2]), sep="\n")
