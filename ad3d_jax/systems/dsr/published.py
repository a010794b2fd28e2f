"""Files of the authors' auto-encoders (VitjanZ/3DSR, VitjanZ/DSR_anomaly_detection).

`experiments.convert_torch` keeps their names, with "/" for ".", and torch's order of
axes.
"""

import os
from collections.abc import Mapping

import numpy as np

from ad3d_jax.base import Tree
from ad3d_jax.features import weights
from ad3d_jax.workdir import trees

# Our layers and theirs.
LAYERS: Mapping[str, str] = {
    "stems_0": "_encoder_b/input_conv_depth",
    "stems_1": "_encoder_b/input_conv_rgb",
    "hi_1": "_encoder_b/_conv_1",
    "hi_2": "_encoder_b/_conv_2",
    "hi_3": "_encoder_b/_conv_3",
    "hi_stack": "_encoder_b",
    "lo_1": "_encoder_t/_conv_1",
    "lo_2": "_encoder_t/_conv_2",
    "lo_stack": "_encoder_t",
    "before_lo": "_pre_vq_conv_top",
    "enlarge_lo": "upsample_t",
    "before_hi": "_pre_vq_conv_bot",
    "decode_1": "_decoder_b/_conv_1",
    "decode_stack": "_decoder_b",
    "decode_2": "_decoder_b/_conv_trans_1",
    "decode_3": "_decoder_b/_conv_trans_2",
    "heads_0": "_decoder_b/_conv_out_depth",
    "heads_1": "_decoder_b/_conv_out_rgb",
}
TRANSPOSED = ("enlarge_lo", "decode_2", "decode_3")
BLOCKS = {"wide": 1, "point": 3}  # place in a residual block
CODEBOOKS = {"lo": "_vq_vae_top", "hi": "_vq_vae_bot"}
CODES = {
    "codes": "_embedding/weight",
    "counts": "_ema_cluster_size",
    "totals": "_ema_w",
}


def read(file: str | os.PathLike, like: Tree) -> Tree:
    """Reads an auto-encoder from a file of ours, or a converted one of the authors.

    Args:
        file: as for `weights.read`.
        like: {"params": …, "codebooks": …}.

    Raises:
        ValueError: as `weights.load`.
        FileNotFoundError: there is no such file.
    """
    file = weights.read(file)
    found = weights.with_slashes(file.path, file.arrays)
    grouped = f"{LAYERS['before_hi']}/_pre_vq_conv_bot/weight" in found
    wanted = trees.by_name(like)
    theirs = {public_name(name, grouped): name for name in wanted}
    if not theirs.keys() & found.keys():
        return weights.load(file, like)
    ours = {}
    for place, array in found.items():
        name = theirs.get(place, place)
        ours[name] = reordered(name, array, wanted[name]) if name in wanted else array
    weights.check_finite(file.path, ours)
    return weights.fit(file.path, ours, like)


def public_name(name: str, grouped: bool) -> str:
    """Returns what the authors call one of our arrays.

    Args:
        name: such as "params/hi_stack/wide1/kernel" or "codebooks/lo/codes".
        grouped: whether colour and depth are groups of one network.
    """
    tree, first, *middle, leaf = name.split("/")
    if tree == "codebooks":
        return f"{CODEBOOKS[first]}/{CODES[leaf]}"
    place = LAYERS[first]
    if first == "before_hi" and grouped:
        place += "/_pre_vq_conv_bot"
    if first.endswith("stack"):
        kind, number = middle[0][:-1], int(middle[0][-1]) - 1
        place += f"/_residual_stack/_layers/{number}/_block/{BLOCKS[kind]}"
    return f"{place}/{'weight' if leaf == 'kernel' else leaf}"


def reordered(name: str, array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Returns an array of theirs in our order of axes.

    A kernel that enlarges is turned by half a circle, and its groups are joined along
    the outputs.
    """
    if array.ndim != 4:
        return array
    if name.split("/")[1] not in TRANSPOSED:
        return array.transpose(2, 3, 1, 0)
    groups = max(1, array.shape[0] // like.shape[2])
    if array.shape[0] % groups:
        return array.transpose(2, 3, 0, 1)  # which does not fit
    parts = np.split(array[:, :, ::-1, ::-1], groups)
    return np.concatenate([part.transpose(2, 3, 0, 1) for part in parts], axis=-1)
