"""Feature maps of images from frozen residual networks, and their weights."""

import os
from collections.abc import Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Tree
from ad3d_jax.features import weights
from ad3d_jax.features.inputs import IMAGENET, normalised
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.resnet import LAYERS, RESNETS, ResNet

BATCH_NORM_EPSILON = 1e-5  # of torchvision's and timm's networks
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def init_resnet(key: Array, name: str, last_layer: str = "layer3") -> Tree:
    """Returns random weights of a network up to a layer, to be replaced by a file's.

    He-normal kernels, the last one of each block scaled down so that activations stay
    O(1) over the depth (see `nn.resnet.Block`), and biases 0.

    Args:
        key: random key.
        name: one of RESNETS.
        last_layer: "conv1", "layer1", …, "layer4".

    Returns:
        {"conv1": {"kernel": [7,7,3,64], "bias": [64]}, "layer1_0": {"conv1": …}, …},
        float32, kernels HWIO, batch norms folded in.

    Raises:
        ValueError: an unknown layer.
    """
    network = _network(name, (last_layer,))

    def build(key):
        return network.init(key, jnp.zeros((1, 32, 32, 3)), (last_layer,))["params"]

    return initialise(build, key)


def resnet_maps(
    params: Tree,
    name: str,
    rgb: Array,
    layers: tuple[str, ...],
) -> tuple[Array, ...]:
    """Returns the maps of a frozen network's layers, [B,h,w,C] float32 each.

    Nothing behind the deepest of the layers is computed. At 224 px layer2 is 28x28 and
    layer3 14x14, of 128 and 256 channels for resnet18, else of 512 and 1024.

    Args:
        params: from `init_resnet` or `read_resnet`.
        name: one of RESNETS.
        rgb: [B,H,W,3] float32 in [0,1]; normalised here with ImageNet's statistics.
        layers: names of layers, in the order in which the maps are returned.

    Raises:
        ValueError: an unknown layer, or one that `params` does not reach.
    """
    network = _network(name, layers)
    for layer in layers:
        if not any(place.startswith(layer) for place in params):
            raise ValueError(
                f"layers: {layer} is deeper than the weights, which end at"
                f" {max(place.split('_')[0] for place in params)}"
            )
    return network.apply({"params": params}, normalised(rgb, IMAGENET), tuple(layers))


def resnet_reach(name: str, layer: str) -> tuple[int, int]:
    """Returns how far a layer sees, and its stride, both in pixels of the image.

    What a layer holds at row i depends on the pixels from row i * stride - reach to
    i * stride + reach alone.
    """
    network, last = RESNETS[name], LAYERS.index(layer)
    reach, stride = 3, 2  # of a kernel of 7, with stride 2
    if last:
        reach, stride = reach + stride, 2 * stride
    for stage, depth in enumerate(network.depths[:last]):
        convolutions = depth if network.bottleneck else 2 * depth  # of 3 x 3
        reach += stride  # the first one, which may have a stride
        stride *= 2 if stage else 1
        reach += (convolutions - 1) * stride
    return reach, stride


def read_resnet(file: str | os.PathLike, name: str, like: Tree) -> Tree:
    """Returns the weights of a network from a file, as `init_resnet`.

    Names are torchvision's and timm's, which are the same, separated by "." or "/",
    with kernels OIHW; or this library's, with kernels HWIO; a common prefix is left
    out. Public files hold batch norms, to be folded (in float64), or have them folded
    already, so that each convolution has a bias; the names say which. Layers deeper
    than those of `like`, the classifier and `num_batches_tracked` are passed over.

    Args:
        file: see `weights.read`; any floating-point dtype.
        name: one of RESNETS, for the message.
        like: from `init_resnet`, or its shapes.

    Raises:
        ValueError: the file is refused (see `weights.read`); names or shapes do not
            fit, with a list of them all and the network that would fit; or values are
            not finite. Nothing is loaded then.
        FileNotFoundError: there is no such file.
    """
    file = weights.read(file)
    path = file.path
    found = weights.without_prefix(path, file.arrays, _is_part)
    found = _needed(weights.with_slashes(path, found), like)
    try:
        weights.fit(path, found, _file_form(found, like))
    except ValueError as error:
        fitting = [other for other in RESNETS if _fits(found, other, _deepest(like))]
        hint = (
            f"\n  these are weights of {fitting[0]}, not of {name}" if fitting else ""
        )
        raise ValueError(f"{error}{hint}") from None
    weights.check_finite(path, found)
    if not _is_own(found):
        found = _folded(found, like)
        weights.check_finite(path, found)
    return weights.fit(path, found, like)


def _network(name: str, layers: tuple[str, ...]) -> ResNet:
    """Returns the module of a network, after a check of the layers asked of it."""
    unknown = [layer for layer in layers if layer not in LAYERS]
    if unknown or not layers:
        raise ValueError(f"layers: expected some of {LAYERS}, found {layers!r}")
    return RESNETS[name]


def _is_part(first: str) -> bool:
    """Says whether a name that begins so is one of the network's, not a prefix."""
    return first.startswith((*LAYERS, "bn1", "fc"))


def _deepest(like: Tree) -> str:
    """Returns the last layer that a tree of weights reaches."""
    return max((place.split("_")[0] for place in like), key=LAYERS.index)


def _needed(found: Mapping[str, np.ndarray], like: Tree) -> dict[str, np.ndarray]:
    """Returns the arrays without those that are known and not asked for."""
    deeper = LAYERS[LAYERS.index(_deepest(like)) + 1 :]

    def passed_over(place: str) -> bool:
        return (
            place in ("fc/weight", "fc/bias")
            or place.endswith("/num_batches_tracked")
            or place.startswith(tuple(f"{layer}{s}" for layer in deeper for s in "/_"))
        )

    return {place: x for place, x in found.items() if not passed_over(place)}


def _is_own(found: Mapping[str, np.ndarray]) -> bool:
    """Says whether the names are this library's."""
    return any(place.endswith("/kernel") for place in found)


def _has_norms(found: Mapping[str, np.ndarray]) -> bool:
    """Says whether public weights hold batch norms beside the convolutions."""
    return any(place.endswith("/running_mean") for place in found)


def _file_form(found: Mapping[str, np.ndarray], like: Tree) -> Tree:
    """Returns the names and shapes that the weights `like` have in such a file."""
    if _is_own(found):
        return like
    form = {}
    for _, kernel, (conv, norm) in _convolutions(like):
        height, width, inputs, outputs = kernel.shape
        vector = jax.ShapeDtypeStruct((outputs,), np.float32)
        form[f"{conv}/weight"] = jax.ShapeDtypeStruct(
            (outputs, inputs, height, width), np.float32
        )
        if _has_norms(found):
            form |= {f"{norm}/{part}": vector for part in BATCH_NORM}
        else:
            form[f"{conv}/bias"] = vector
    return form


def _fits(found: Mapping[str, np.ndarray], name: str, last_layer: str) -> bool:
    """Says whether a file's weights are those of a network, by names and shapes."""
    build = partial(init_resnet, name=name, last_layer=last_layer)
    like = jax.eval_shape(build, jax.random.key(0))
    return not weights.faults(found, _file_form(found, like))


def _folded(found: Mapping[str, np.ndarray], like: Tree) -> dict[str, np.ndarray]:
    """Returns public weights under this library's names, batch norms folded in."""
    folded = {}
    for place, _, (conv, norm) in _convolutions(like):
        kernel = found[f"{conv}/weight"].transpose(2, 3, 1, 0).astype(np.float64)
        if _has_norms(found):
            scale, shift, mean, variance = (
                found[f"{norm}/{part}"].astype(np.float64) for part in BATCH_NORM
            )
            with np.errstate(invalid="ignore", over="ignore"):  # check_finite tells
                scale = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
                kernel = np.float32(kernel * scale)
                bias = np.float32(shift - mean * scale)
        else:
            bias = found[f"{conv}/bias"]
        folded |= {f"{place}/kernel": kernel, f"{place}/bias": bias}
    return folded


def _convolutions(
    tree: Tree, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, Array, tuple[str, str]]]:
    """Yields each convolution's name, kernel and public names with its batch norm's."""
    for part, value in tree.items():
        if "kernel" not in value:
            yield from _convolutions(value, (*above, part))
            continue
        # layer1_0/conv2 is layer1/0/conv2 and layer1/0/bn2 there, and downsample two
        # entries of a list.
        block = "".join(f"{name.replace('_', '/')}/" for name in above)
        names = (part, part.replace("conv", "bn"))
        if part == "downsample":
            names = ("downsample/0", "downsample/1")
        conv, norm = (block + name for name in names)
        yield "/".join((*above, part)), value["kernel"], (conv, norm)
