"""Names and one-line explanations, for readers outside the field."""

from typing import NamedTuple


class Term(NamedTuple):
    """How a metric is named and what it says."""

    name: str
    meaning: str


def _stricter_aupro(share: str, chance: str) -> Term:
    return Term(
        f"AUPRO @ {share}",
        f"The same where at most {share} of the normal pixels are marked. "
        f"A random map gives {chance}.",
    )


METRICS = {
    "i_auroc": Term(
        "I-AUROC",
        "Chance that a defective image gets a higher score than a good one. "
        "Guessing gives 0.5.",
    ),
    "i_ap": Term(
        "I-AP",
        "Precision of the flagged images, averaged over recall. Guessing gives the "
        "share of defective images.",
    ),
    "i_f1max": Term(
        "I-F1-max",
        "Best balance of precision and recall over images, at a threshold picked on "
        "this very test set.",
    ),
    "aupro_30": Term(
        "AUPRO @ 30 %",
        "Mean share of a defect region that is marked, averaged over the thresholds "
        "that mark at most 30 % of the normal pixels; every region counts alike. "
        "A random map gives 0.15.",
    ),
    "aupro_10": _stricter_aupro("10 %", "0.05"),
    "aupro_05": _stricter_aupro("5 %", "0.025"),
    "aupro_01": _stricter_aupro("1 %", "0.005"),
    "aupro_30_compat": Term(
        "AUPRO @ 30 %, compat",
        "AUPRO @ 30 % from 100 sampled thresholds, as most published tables have it; "
        "only for comparison with those.",
    ),
    "p_auroc": Term(
        "P-AUROC",
        "Chance that a defect pixel scores above a normal one. Close to 1 for almost "
        "any method, as defects are small.",
    ),
    "p_ap": Term(
        "P-AP",
        "Precision of the marked pixels, averaged over recall. Guessing gives the "
        "share of defect pixels.",
    ),
    "p_f1max": Term(
        "P-F1-max",
        "Best overlap of marked and defect pixels (F1), at a threshold picked on this "
        "very test set.",
    ),
}

FACTS = {
    "system": "system",
    "variant": "variant",
    "category": "category",
    "recipe": "preprocessing recipe",
    "resolution": "resolution",
    "mask_size": "size of maps and masks",
    "weights": "weights",
    "seed": "seed",
    "steps": "training steps",
    "device": "device",
    "seconds_fit": "seconds to fit",
    "seconds_score": "seconds to score",
    "images_per_second": "images per second",
    "peak_memory_bytes": "peak memory, bytes",
    "config_hash": "hash of the configuration",
    "commit": "commit",
    "jax": "jax",
}

# What logged values say, by the beginning of their names.
LOGGED = {
    "perplexity": "As many codes in even use would be as varied. Low values mean that "
    "few codes do all the work.",
    "dead": "Codes that are given to fewer than one patch in a hundred batches.",
    "class_perplexity": "The same over the codes of this class alone.",
    "class_dead": "Codes that this class hardly ever uses.",
    "focal": "Error of the segmentation; hard pixels count more.",
    "ssim": "1 - structural similarity of image and reconstruction.",
    "mask_area": "Share of the image that is altered, normal samples among them.",
}
# What the images of a sample show, by the beginning of their names.
PARTS = {
    "reconstruction_general": "Image made of the codes as they were found.",
    "reconstruction": "How the system thinks that the part would look without defect.",
    "codes": "Index of the code of each cell, one colour a code.",
    "map": "Anomaly map of one part of the system alone.",
    "importance": "How much colour counts against depth, bright is more.",
    "gate": "Whether the map of colour and depth is taken, or that of colour alone.",
}
