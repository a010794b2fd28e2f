"""What public files of Point-MAE and Point-BERT hold, and a small cloud for them."""

import numpy as np


def public_shapes(name, blocks=12):
    """Returns {name: shape} of the network alone, without what stands beside it."""
    token = {"point_mae": 384, "point_bert": 256}[name]
    found = {}
    for part, widths in (
        ("encoder.first_conv", (3, 128, 256)),
        ("encoder.second_conv", (512, 512, token)),
    ):
        inputs, hidden, outputs = widths
        found |= layer(f"{part}.0", (hidden, inputs, 1))
        found |= {f"{part}.1.{entry}": (hidden,) for entry in NORM}
        found |= {f"{part}.1.num_batches_tracked": ()}
        found |= layer(f"{part}.3", (outputs, hidden, 1))
    found |= layer("pos_embed.0", (128, 3)) | layer("pos_embed.2", (384, 128))
    if name == "point_bert":
        found |= {"cls_token": (1, 1, 384), "cls_pos": (1, 1, 384)}
        found |= layer("reduce_dim", (384, 256))
    for place in (f"blocks.blocks.{number}" for number in range(blocks)):
        for norm in ("norm1", "norm2"):
            found |= {f"{place}.{norm}.{entry}": (384,) for entry in NORM[:2]}
        found |= {f"{place}.attn.qkv.weight": (1152, 384)}
        found |= layer(f"{place}.attn.proj", (384, 384))
        found |= layer(f"{place}.mlp.fc1", (1536, 384))
        found |= layer(f"{place}.mlp.fc2", (384, 1536))
    return found | {f"norm.{entry}": (384,) for entry in NORM[:2]}


NORM = ("weight", "bias", "running_mean", "running_var")


def layer(place, shape):
    return {f"{place}.weight": shape, f"{place}.bias": shape[:1]}


def drawn_weights(name, seed, blocks=12):
    """Returns float32 weights under the public names, drawn in the names' order."""
    generator = np.random.default_rng(seed)
    shapes = public_shapes(name, blocks)
    return {
        place: drawn(generator, place, shapes[place])
        for place in sorted(shapes)
        if not place.endswith("num_batches_tracked")
    }


def drawn(generator, place, shape):
    if place.endswith("running_var"):
        return generator.uniform(0.5, 2.0, shape).astype(np.float32)
    value = generator.standard_normal(shape, np.float32)
    if place.startswith("cls"):
        return value
    if len(shape) > 1:
        return value * np.float32(np.sqrt(1 / np.prod(shape[1:])))
    if place.endswith("weight"):
        return np.float32(1) + np.float32(0.1) * value
    return np.float32(0.2) * value


def cloud(seed, side=24):
    """Returns a cloud [side,side,3] of unit size about the origin, a fifth of it 0."""
    generator = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side] + generator.uniform(-0.3, 0.3, (2, side, side))
    xyz = np.stack(
        [column / side - 0.5, row / side - 0.5, 0.2 * np.sin(row / 4 - 3)], -1
    )
    return np.float32(xyz * (generator.random((side, side, 1)) > 0.2))
