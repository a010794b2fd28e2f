"""Residual networks whose batch norms are folded into their convolutions."""

import jax
from flax import linen as nn

from ad3d_jax.base import Array

LAYERS = ("conv1", "layer1", "layer2", "layer3", "layer4")  # what can be tapped


class ResNet(nn.Module):
    """A residual network without its classifier, up to the deepest layer asked for.

    Every convolution has a kernel HWIO and a bias and stands for itself and the batch
    norm behind it. A stage's first block has the stride, in its first 3x3 convolution;
    paddings are symmetric. "conv1" is the stem before its max-pool, after ReLU.

    References: He et al., arXiv 1512.03385; Zagoruyko & Komodakis, arXiv 1605.07146, as
    torchvision builds them (the bottleneck's stride is on its 3x3 convolution).
    """

    depths: tuple[int, int, int, int]  # blocks of layer1 to layer4
    bottleneck: bool = False
    width: int = 64  # of the 3x3 convolutions of layer1; doubles with each stage

    @nn.compact
    def __call__(self, x: Array, layers: tuple[str, ...]) -> tuple[Array, ...]:
        """Returns the maps [B,h,w,C] of the named layers, float32, in their order.

        Args:
            x: [B,H,W,3] float32, normalised.
            layers: names in LAYERS; their sides are H/2, H/4, H/8, H/16, H/32, rounded
                up.
        """
        deepest = max(LAYERS.index(layer) for layer in layers)
        x = nn.relu(conv(64, 7, 2, "conv1")(x))
        maps = {"conv1": x}
        if deepest:
            # nn.max_pool fills with minus infinity, as it must.
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, depth in enumerate(self.depths[:deepest]):
            for block in range(depth):
                x = Block(
                    width=self.width * 2**stage,
                    features=(256 if self.bottleneck else 64) * 2**stage,
                    stride=2 if stage and not block else 1,
                    bottleneck=self.bottleneck,
                    gain=2.0 / sum(self.depths),
                    name=f"layer{stage + 1}_{block}",
                )(x)
            maps[f"layer{stage + 1}"] = x
        return tuple(maps[layer] for layer in layers)


class Block(nn.Module):
    """Two or three convolutions around a shortcut, which is projected where it must.

    `gain` is the variance with which the last convolution is drawn, times its number of
    inputs; the others are drawn with 2 (He-normal), which keeps the mean square through
    a ReLU. With 2 / blocks in each of the network's blocks the mean square grows by at
    most (1 + 2 / blocks)^blocks < e^2 over all of them.
    """

    width: int
    features: int
    stride: int
    bottleneck: bool
    gain: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [B,H/stride,W/stride,features] from [B,H,W,C]."""
        if self.bottleneck:
            y = nn.relu(conv(self.width, 1, 1, "conv1")(x))
            y = nn.relu(conv(self.width, 3, self.stride, "conv2")(y))
            y = conv(self.features, 1, 1, "conv3", self.gain)(y)
        else:
            y = nn.relu(conv(self.width, 3, self.stride, "conv1")(x))
            y = conv(self.features, 3, 1, "conv2", self.gain)(y)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = conv(self.features, 1, self.stride, "downsample")(x)
        return nn.relu(x + y)


def conv(
    features: int, side: int, stride: int, name: str, gain: float = 2.0
) -> nn.Conv:
    """Returns a convolution with bias and symmetric padding, in full float32.

    "SAME" would pad the far sides alone at stride 2 and shift all deeper features.
    """
    return nn.Conv(
        features,
        (side, side),
        stride,
        padding=side // 2,
        precision=jax.lax.Precision.HIGHEST,
        kernel_init=nn.initializers.variance_scaling(gain, "fan_in", "normal"),
        name=name,
    )


RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2)),
    "resnet34": ResNet((3, 4, 6, 3)),
    "resnet50": ResNet((3, 4, 6, 3), bottleneck=True),
    "wide_resnet50": ResNet((3, 4, 6, 3), bottleneck=True, width=128),
    "wide_resnet101": ResNet((3, 4, 23, 3), bottleneck=True, width=128),
}
