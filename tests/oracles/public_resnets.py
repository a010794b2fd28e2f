"""What public files of residual networks hold, torchvision's and timm's alike."""

import numpy as np

# Blocks of the stages, width of a stage's last convolution over that of its 3x3 ones,
# and width of the first stage's 3x3 ones.
FORMS = {
    "resnet18": ((2, 2, 2, 2), 1, 64),
    "resnet34": ((3, 4, 6, 3), 1, 64),
    "resnet50": ((3, 4, 6, 3), 4, 64),
    "wide_resnet50": ((3, 4, 6, 3), 2, 128),
    "wide_resnet101": ((3, 4, 23, 3), 2, 128),
}


def public_shapes(name, stages=4):
    """Returns {name: shape} of the stem and the first stages, with the head if all."""
    depths, expansion, width = FORMS[name]
    found = conv("conv1", "bn1", (64, 3, 7, 7))
    inputs = 64
    for stage in range(1, stages + 1):
        middle = width * 2 ** (stage - 1)
        outputs = middle * expansion
        for block in range(depths[stage - 1]):
            place = f"layer{stage}.{block}."
            if expansion == 1:
                sides = [(middle, inputs, 3, 3), (middle, middle, 3, 3)]
            else:
                sides = [(middle, inputs, 1, 1), (middle, middle, 3, 3)]
                sides += [(outputs, middle, 1, 1)]
            for n, shape in enumerate(sides, 1):
                found |= conv(f"{place}conv{n}", f"{place}bn{n}", shape)
            if block == 0 and (stage > 1 or expansion > 1):
                shape = (outputs, inputs, 1, 1)
                place += "downsample."
                found |= conv(f"{place}0", f"{place}1", shape)
            inputs = outputs
    if stages == 4:
        found |= {"fc.weight": (1000, inputs), "fc.bias": (1000,)}
    return found


def conv(place, norm, shape):
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{place}.weight": shape,
        **{f"{norm}.{part}": shape[:1] for part in vectors},
        f"{norm}.num_batches_tracked": (),
    }


def drawn_weights(name, seed, stages=3):
    """Returns float32 weights under the public names, drawn in the names' order."""
    generator = np.random.default_rng(seed)
    shapes = public_shapes(name, stages)
    return {place: drawn(generator, place, shapes[place]) for place in sorted(shapes)}


def drawn(generator, place, shape):
    if place.endswith("num_batches_tracked"):
        return np.int64(7)
    if place.endswith("running_var"):
        return generator.uniform(0.5, 2.0, shape).astype(np.float32)
    value = generator.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return value * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if place.endswith("weight"):
        return np.float32(0.6) + np.float32(0.1) * value
    return np.float32(0.2) * value


def folded(weights):
    """Returns the weights with each batch norm folded into its convolution."""
    found = {}
    for place, kernel in weights.items():
        if kernel.ndim != 4:
            continue
        conv = place.removesuffix(".weight")
        norm = conv.replace("conv", "bn").replace("downsample.0", "downsample.1")
        scale, shift, mean, variance = (
            weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + 1e-5)
        found[place] = (kernel * factor[:, None, None, None]).astype(np.float32)
        found[f"{conv}.bias"] = (shift - mean * factor).astype(np.float32)
    return found


def image(seed, side=64):
    """Returns an image [1,side,side,3] float32 in [0,1]."""
    return np.random.default_rng(seed).random((1, side, side, 3), np.float32)
