"""DRAEM's, EasyNet's and CFM's networks in plain torch, with their losses and Adam.

Written from the papers' facts (arXiv 2108.07610, 2307.13925, 2312.04521), for timing
alone: float32 in torch's own layout, inputs [B,C,H,W], parameters as torch draws them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

LEAK = 0.2
WINDOW, SIGMA = 11, 1.5  # of SSIM


def layer(inputs: int, outputs: int) -> nn.Sequential:
    """Returns a 3x3 convolution, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def block(inputs: int, *widths: int) -> nn.Sequential:
    """Returns layers of these widths in a row."""
    ends = (inputs, *widths)
    return nn.Sequential(*map(layer, ends, widths))


def perceptron(inputs: int, *widths: int) -> nn.Sequential:
    """Returns 1x1 convolutions, each with batch normalisation and leaky ReLU."""
    parts = []
    for width in widths:
        parts += [nn.Conv2d(inputs, width, 1), nn.BatchNorm2d(width)]
        parts.append(nn.LeakyReLU(LEAK))
        inputs = width
    return nn.Sequential(*parts)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Returns the image at twice its size, the corners' centres in place."""
    return functional.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True
    )


class AutoEncoder(nn.Module):
    """DRAEM's reconstructive network; `width` is that of its first block."""

    def __init__(self, width: int, channels: int = 3):
        super().__init__()
        a, b, c, d = (width * 2**i for i in range(4))
        pairs = zip((channels, a, b, c, d), (a, b, c, d, d), strict=True)
        self.down = nn.ModuleList(block(i, o, o) for i, o in pairs)
        stages = ((d, c), (c, b), (b, a), (a, a))
        self.enlarge = nn.ModuleList(layer(i, i) for i, _ in stages)
        self.up = nn.ModuleList(block(i, i, o) for i, o in stages)
        self.head = nn.Conv2d(a, channels, 3, padding=1)

    def forward(self, x: torch.Tensor):
        """Returns the reconstruction, and the blocks on the way down and up."""
        early, late = [], []
        for level, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if level else x)
            early.append(x)
        for enlarge, up in zip(self.enlarge, self.up, strict=True):
            x = up(enlarge(doubled(x)))
            late.append(x)
        return self.head(x), early, late


class UNet(nn.Module):
    """DRAEM's discriminative network; `width` is that of its first block."""

    def __init__(self, width: int, channels: int = 6):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(6)]
        pairs = zip((channels, *widths), widths, strict=False)
        self.down = nn.ModuleList(block(i, o, o) for i, o in pairs)
        ups = (*widths[3::-1], width)
        inputs = (widths[-1], *ups)
        self.enlarge = nn.ModuleList(map(layer, inputs, ups))
        skips = widths[-2::-1]
        self.up = nn.ModuleList(
            block(skip + up, up, up) for skip, up in zip(skips, ups, strict=True)
        )
        self.head = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits [B,2,H,W]."""
        skips = []
        for level, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for number, skip in enumerate(skips[-2::-1]):
            x = self.enlarge[number](doubled(x))
            x = self.up[number](torch.cat((x, skip), 1))
        return self.head(x)


class Draem(nn.Module):
    """Both networks of DRAEM."""

    def __init__(self, width: int = 128, discriminator_width: int = 64):
        super().__init__()
        self.restore = AutoEncoder(width)
        self.judge = UNet(discriminator_width)

    def forward(self, rgb: torch.Tensor):
        """Returns the reconstruction and the probabilities [B,2,H,W]."""
        restored = self.restore(rgb)[0]
        return restored, self.judge(torch.cat((restored, rgb), 1)).softmax(1)

    def loss(self, rgb, clean, mask) -> torch.Tensor:
        """Returns DRAEM's loss of altered images."""
        restored, probabilities = self(rgb)
        return appearance(restored, clean) + focal(probabilities, mask)

    def score(self, rgb) -> torch.Tensor:
        """Returns the image scores."""
        return image_scores(self(rgb)[1])


class EasyNet(nn.Module):
    """EasyNet of two levels with both heads and the gate (`Fusion1`)."""

    def __init__(self, width: int = 128, mlp_width: int = 512):
        super().__init__()
        wide = mlp_width
        self.restore = nn.ModuleList(AutoEncoder(width) for _ in range(2))
        self.compare = nn.ModuleList(
            nn.ModuleList(perceptron(n * width, wide) for n in (2, 3)) for _ in range(2)
        )
        heads = (wide, wide // 2, 2)
        self.heads = nn.ModuleList(perceptron(n * wide, *heads) for n in (2, 4))

    def forward(self, rgb: torch.Tensor, depth: torch.Tensor):
        """Returns both reconstructions, both heads' probabilities, pooled features."""
        restored, compared = [], []
        for x, restore, levels in zip(
            (rgb, depth), self.restore, self.compare, strict=True
        ):
            image, early, late = restore(x)
            restored.append(image)
            first = levels[0](torch.cat((early[0], late[3]), 1))
            second = levels[1](torch.cat((early[1], late[2]), 1))
            second = functional.interpolate(
                second, size=x.shape[2:], mode="bilinear", align_corners=False
            )
            compared += [first, second]
        seen = torch.cat(compared[:2], 1), torch.cat(compared, 1)
        maps = [
            head(features).softmax(1)
            for head, features in zip(self.heads, seen, strict=True)
        ]
        return restored, maps, [features.mean((2, 3)) for features in seen]

    def loss(self, rgb, depth, clean_rgb, clean_depth, mask) -> torch.Tensor:
        """Returns EasyNet's loss of altered pairs."""
        restored, maps, _ = self(rgb, depth)
        total = appearance(restored[0], clean_rgb)
        total = total + functional.mse_loss(restored[1], clean_depth)
        return total + sum(focal(probabilities, mask) for probabilities in maps)

    def score(self, rgb, depth) -> torch.Tensor:
        """Returns the image scores of the maps that the gate takes."""
        _, maps, pooled = self(rgb, depth)
        fused = entropies(pooled[1]) >= entropies(pooled[0])
        taken = torch.where(fused[:, None, None, None], maps[1], maps[0])
        return image_scores(taken)


def entropies(pooled: torch.Tensor) -> torch.Tensor:
    """Returns the entropy of each row's histogram of 256 bins on [0,1], bits."""
    rows = []
    for row in pooled:
        counts = torch.histc(row, 256, 0, 1)
        share = counts / counts.sum()
        rows.append(-(share * torch.log2(share + 1e-12)).sum())
    return torch.stack(rows)


def image_scores(probabilities: torch.Tensor) -> torch.Tensor:
    """Returns the largest mean over 21 x 21 pixels, [B]."""
    smooth = functional.avg_pool2d(probabilities[:, 1:], 21, 1, padding=10)
    return smooth.amax((1, 2, 3))


def appearance(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Returns squared error + 1 - SSIM."""
    at = torch.arange(WINDOW) - WINDOW // 2
    line = torch.exp(-(at**2) / (2 * SIGMA**2))
    line = line / line.sum()
    channels = clean.shape[1]
    window = (line[:, None] * line).expand(channels, 1, WINDOW, WINDOW).contiguous()

    def mean(x):
        return functional.conv2d(x, window, padding=WINDOW // 2, groups=channels)

    a, b = mean(restored), mean(clean)
    variance_a = mean(restored * restored) - a * a
    variance_b = mean(clean * clean) - b * b
    covariance = mean(restored * clean) - a * b
    first, second = 0.01**2, 0.03**2
    similarity = (2 * a * b + first) * (2 * covariance + second)
    similarity = similarity / (
        (a * a + b * b + first) * (variance_a + variance_b + second)
    )
    return functional.mse_loss(restored, clean) + 1 - similarity.mean()


def focal(probabilities: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns the focal loss of probabilities [B,2,H,W], gamma 2, for a mask 0/1."""
    target = torch.cat((1 - mask, mask), 1).clamp(1e-5, 1 - 1e-5)
    right = (target * probabilities).sum(1) + 1e-5
    return -((1 - right) ** 2 * right.log()).mean()


class Mappings(nn.Module):
    """CFM's perceptrons from one modality's features to the other's, both ways."""

    def __init__(self, rgb: int, points: int):
        super().__init__()
        width = (rgb + points) // 2
        self.to_points, self.to_rgb = (
            nn.Sequential(
                nn.Linear(inputs, width),
                nn.GELU(),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Linear(width, outputs),
            )
            for inputs, outputs in ((rgb, points), (points, rgb))
        )

    def loss(self, rgb: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Returns 1 - cosine in both modalities of pixels [N,C] and [N,D]."""
        pairs = (self.to_points(rgb), points), (self.to_rgb(points), rgb)
        return sum(1 - functional.cosine_similarity(*pair).mean() for pair in pairs)


def parameters(model: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def scoring(model: nn.Module, inputs: Sequence) -> Callable[[], torch.Tensor]:
    """Returns the call that scores NumPy inputs [B,C,H,W]."""
    inputs = [torch.from_numpy(x) for x in inputs]

    def call():
        model.eval()
        with torch.inference_mode():
            return model.score(*inputs)

    return call


def training(model: nn.Module, inputs: Sequence) -> Callable[[], float]:
    """Returns the call that trains one step of Adam on NumPy inputs of the loss."""
    inputs = [torch.from_numpy(x) for x in inputs]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def call():
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(*inputs)
        loss.backward()
        optimizer.step()
        return loss.item()

    return call
