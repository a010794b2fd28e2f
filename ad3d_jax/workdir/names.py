"""What the files and folders of a run are called, relative to its folder."""

import hashlib

LONGEST = 120  # bytes of a part of a file's name; file systems take 255 in all

CONFIG = "config.json"
LOCK = "lock"
LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
STEPS = "checkpoints/steps"  # positions of a fit that is under way
FEATURES = "checkpoints/features"  # frozen ones, while a fit is under way
FINAL = "checkpoints/final"  # the trained state
ORIGIN = "checkpoints/origin.json"  # what it comes from: see `experiment.origin`
CALIBRATION = "checkpoints/calibration.json"  # scores of good samples
ESTIMATE = "checkpoints/estimate.json"  # its values on planted defects
ENSEMBLE = "checkpoints/ensemble.json"  # the members' names, and the size of its maps
TAILS = "checkpoints/tails.npz"  # what surprises of each member, see `metrics.surprise`
MEMBERS = "members"  # their detectors, a folder each
FOLD = "checkpoints/fold-{}"  # the state that was fitted without a fold
METRICS = "metrics.json"
SCORES = "scores.csv"
MAPS = "maps"
SAMPLES = "maps/samples"  # inputs and parts of the samples that are shown
REPORT = "report"
PAGE = "index.html"  # of the report; also of other folders of images
WHY = "why.html"  # of the report: why this detector was chosen
FAILED = "failed.json"  # in place of metrics.json

# Of a prediction, which has SCORES, too.
PREDICTION = "prediction.json"  # what it was made with
HEAT_MAPS = "heat_maps"
OVERLAYS = "overlays"
RAW = "raw"  # maps as numbers

# Of a grid, whose cells are runs.
GRID = "grid.json"
OUTPUT = "output.txt"  # of a cell: what its process wrote
TABLE_MARKDOWN = "table.md"
TABLE_CSV = "table.csv"
TABLE_PAGE = "table.html"
TABLE_LATEX = "table.tex"

# Of a study, whose trials are runs.
STAGES = "stages.json"  # of a trial: its values before its end
TRIALS = "trials"
DATABASE = "study.db"


def sample_name(defect: str, stem: str) -> str:
    """Returns what the files of a sample are called, less their ending.

    One name for each (defect, stem): the last underscore stands between them.
    """
    return f"{plain_name(defect)}_{plain_name(stem, odd='_')}"


def configuration_name(text: str) -> str:
    """Returns what the folder of a configuration is called, one name for each.

    Its colons become `-` and its `+` stay: `dbrn:cpu+rgb` has `dbrn-cpu+rgb`.
    """
    return "-".join(
        "+".join(plain_name(word, odd="-") for word in part.split("+"))
        for part in text.split(":")
    )


def plain_name(text: str, odd: str = "") -> str:
    """Returns a name of letters, digits and `_.-` for any text, one for each text.

    Other characters, and those of `odd`, become % and two digits for each of their
    bytes; of a name that is longer than LONGEST the rest is told by its digest.
    """
    found = ""
    for letter in text:
        kept = (letter.isalnum() or letter in "_.-") and letter not in odd
        code = letter.encode("utf-8", "surrogatepass")
        found += letter if kept else "".join(f"%{byte:02x}" for byte in code)
    code = found.encode()
    if len(code) <= LONGEST:
        return found
    digest = hashlib.sha256(code).hexdigest()[:16]
    return f"{code[: LONGEST - 17].decode(errors='ignore')}~{digest}"
