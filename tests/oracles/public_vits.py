"""What public files of vision transformers hold, in timm's form, and what they mean."""

import numpy as np
from scipy.special import erf

# Side of a patch, width, side of the table of positions, number of registers.
FORMS = {
    "vit_small_patch8_224": (8, 384, 28, 0),
    "vit_base_patch8_224": (8, 768, 28, 0),
    "vit_small_patch14_reg4_dinov2": (14, 384, 37, 4),
    "vit_base_patch14_reg4_dinov2": (14, 768, 37, 4),
    "tiny": (4, 8, 3, 0),
    "tiny_reg2": (4, 8, 3, 2),
}


def public_shapes(name, depth=12):
    """Returns {name: shape} of a network without a classifier."""
    patch, width, grid, registers = FORMS[name]
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, grid**2 + (not registers), width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    if registers:
        shapes["reg_token"] = (1, registers, width)
    for block in range(depth):
        place = f"blocks.{block}"
        shapes |= layer(f"{place}.norm1", width)
        shapes |= layer(f"{place}.attn.qkv", 3 * width, width)
        shapes |= layer(f"{place}.attn.proj", width, width)
        shapes |= layer(f"{place}.norm2", width)
        shapes |= layer(f"{place}.mlp.fc1", 4 * width, width)
        shapes |= layer(f"{place}.mlp.fc2", width, 4 * width)
        if registers:
            shapes |= {f"{place}.ls{n}.gamma": (width,) for n in (1, 2)}
    return shapes | layer("norm", width)


def layer(place, *shape):
    return {f"{place}.weight": shape, f"{place}.bias": shape[:1]}


def drawn_weights(name, seed, depth=2):
    """Returns float32 weights under the public names."""
    generator = np.random.default_rng(seed)
    shapes = public_shapes(name, depth)
    return {place: drawn(generator, place, shapes[place]) for place in sorted(shapes)}


def drawn(generator, place, shape):
    value = generator.standard_normal(shape, np.float32)
    if place.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")):
        return np.float32(0.8) + np.float32(0.3) * value
    if place.endswith("weight"):
        return value / np.float32(np.sqrt(np.prod(shape[1:])))
    return np.float32(0.5) * value


def tokens(weights, x, heads, depth):
    """Returns what each block, and the final norm behind it, gives for one image.

    Written out patch by patch, head by head and token by token, in float64.

    Args:
        weights: under the public names.
        x: [H,W,3], normalised, of the size of the table of positions.
        heads: of the attention.
        depth: number of blocks.

    Returns:
        [block1, norm1, block2, …], each [tokens,width].
    """
    w = {place: array.astype(np.float64) for place, array in weights.items()}
    kernel = w["patch_embed.proj.weight"]
    side = kernel.shape[-1]
    patches = [
        [
            np.sum(k * x[row : row + side, column : column + side].transpose(2, 0, 1))
            for k in kernel
        ]
        for row in range(0, x.shape[0], side)
        for column in range(0, x.shape[1], side)
    ]
    grid = np.array(patches) + w["patch_embed.proj.bias"]
    if "reg_token" in w:  # only patches have positions
        grid = grid + w["pos_embed"][0]
        y = np.concatenate([w["cls_token"][0], w["reg_token"][0], grid])
    else:
        y = np.concatenate([w["cls_token"][0], grid]) + w["pos_embed"][0]
    found = []
    for block in range(depth):
        part = {
            place.removeprefix(f"blocks.{block}."): array
            for place, array in w.items()
            if place.startswith(f"blocks.{block}.")
        }
        one = np.ones(y.shape[1])
        attended = attention(part, normed(part, "norm1", y), heads)
        y = y + part.get("ls1.gamma", one) * linear(part, "attn.proj", attended)
        hidden = linear(part, "mlp.fc1", normed(part, "norm2", y))
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        y = y + part.get("ls2.gamma", one) * linear(part, "mlp.fc2", hidden)
        found += [y, normed(w, "norm", y)]
    return found


def attention(part, y, heads):
    width = y.shape[1]
    qkv = linear(part, "attn.qkv", y)
    each = width // heads
    out = np.zeros_like(y)
    for head in range(heads):
        first = head * each
        q, k, v = (
            qkv[:, at + first : at + first + each] for at in (0, width, 2 * width)
        )
        for token in range(len(y)):
            share = np.exp(k @ q[token] / np.sqrt(each))
            out[token, first : first + each] = share / share.sum() @ v
    return out


def linear(part, place, y):
    return y @ part[f"{place}.weight"].T + part[f"{place}.bias"]


def normed(part, place, y):
    mean = y.mean(-1, keepdims=True)
    variance = ((y - mean) ** 2).mean(-1, keepdims=True)
    y = (y - mean) / np.sqrt(variance + 1e-6)
    return y * part[f"{place}.weight"] + part[f"{place}.bias"]
