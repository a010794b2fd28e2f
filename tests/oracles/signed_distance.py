"""Public names and shapes of Shape-Guided's networks, with weights drawn by NumPy."""

import numpy as np

WIDTHS = {"conv1": (64, 3), "conv2": (128, 64), "conv3": (1024, 128)}
WIDTHS |= {"fc1": (512, 1024), "fc2": (128, 512)}
NORMS = {"bn1": 64, "bn2": 128, "bn3": 1024, "bn4": 512, "bn5": 128}
LINEAR = {"fc1": (512, 128), "fc2": (512, 3), "fc3": (512, 1024), "fc5": (1, 512)}


def public_shapes():
    """Returns {name: shape} of the checkpoint's entry `sdf_model`."""
    found = {}
    for layer, (outputs, inputs) in WIDTHS.items():
        side = (1,) if layer.startswith("conv") else ()
        found[f"encoder.{layer}.weight"] = (outputs, inputs, *side)
        found[f"encoder.{layer}.bias"] = (outputs,)
    for norm, width in NORMS.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"encoder.{norm}.{part}"] = (width,)
    for layer, shape in LINEAR.items():
        found[f"NIF.{layer}.weight"], found[f"NIF.{layer}.bias"] = shape, shape[:1]
    for number in range(7):
        found[f"NIF.fc4{number}.weight_g"] = (512, 1)
        found[f"NIF.fc4{number}.weight_v"] = (512, 512)
        found[f"NIF.fc4{number}.bias"] = (512,)
    return found


def drawn_weights(seed):
    """Returns float32 weights under the public names, drawn in the names' order."""
    generator = np.random.default_rng(seed)
    shapes = public_shapes()
    return {name: drawn(generator, name, shapes[name]) for name in sorted(shapes)}


def drawn(generator, name, shape):
    value = generator.standard_normal(shape)
    if name.endswith("running_var"):
        value = 0.5 + np.abs(value)
    elif ".bn" in name:
        value = float(name.endswith(".weight")) + 0.2 * value
    elif name.endswith("weight_g"):
        value = 1.2 + 0.1 * value
    elif name.endswith("bias"):
        value = 0.1 * value
    else:
        value = value * np.sqrt(2 / np.prod(shape[1:]))
    return np.float32(value)
