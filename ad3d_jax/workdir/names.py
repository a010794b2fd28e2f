"""What the files and folders of a run are called, relative to its folder."""

import re

CONFIG = "config.json"
LOCK = "lock"
LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
STEPS = "checkpoints/steps"  # positions of a fit that is under way
FEATURES = "checkpoints/features"  # frozen ones, while a fit is under way
FINAL = "checkpoints/final"  # the trained state
ORIGIN = "checkpoints/origin.json"  # what it comes from: see `experiment.origin`
METRICS = "metrics.json"
SCORES = "scores.csv"
MAPS = "maps"
SAMPLES = "maps/samples"  # inputs and parts of the samples that are shown
REPORT = "report"
PAGE = "index.html"  # of the report; also of other folders of images
FAILED = "failed.json"  # in place of metrics.json

# Of a grid, whose cells are runs.
GRID = "grid.json"
OUTPUT = "output.txt"  # of a cell: what its process wrote
TABLE_MARKDOWN = "table.md"
TABLE_CSV = "table.csv"
TABLE_PAGE = "table.html"

# Of a study, whose trials are runs.
STAGES = "stages.json"  # of a trial: its values before its end
TRIALS = "trials"
DATABASE = "study.db"


def sample_name(defect: str, stem: str) -> str:
    """Returns what the files of a sample are called, less their ending.

    One name for each (defect, stem): odd characters, and the underscores of `stem`,
    become % and their code.
    """

    def plain(text: str, odd: str) -> str:
        return re.sub(odd, lambda match: f"%{ord(match[0]):x}", text)

    return plain(defect, r"[^\w.-]") + "_" + plain(stem, r"[^\w.-]|_")
