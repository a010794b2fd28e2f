"""The networks of DBRN: two reconstructions, their comparison, one discriminator."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Tree, fold_each
from ad3d_jax.nn.importance import ConcatFusion, ImportanceScoring, PairEmbed
from ad3d_jax.nn.res_unet import ResUnet
from ad3d_jax.nn.scope import Scope
from ad3d_jax.nn.swin_unet import SwinUnet
from ad3d_jax.nn.unet import UNet
from ad3d_jax.ops.resize import resize_bilinear

CHANNELS = {"rgb": 3, "depth": 1}


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew.

    The defaults are the multi-scale RGB-D system; sheet §10 defines the other rows.
    """

    modalities: tuple[str, ...] = ("rgb", "depth")
    reconstruction: str = "swin"  # swin | res_unet
    discriminator: str = "unet"  # unet | swin
    fusion: str = "importance"  # importance | early | hadamard | concat
    scales: int = 3  # heads at 1/1, 1/4, 1/8; 1 is the paper's single-scale row
    embed: int = 96  # width of the Swin-Unets
    window: int = 8  # attention window in tokens
    drop_path: float = 0.1  # stochastic depth, training only
    reconstruction_width: int = 64  # first width of res_unet
    discriminator_width: int = 64  # width of pair embedding and U-Net
    pair_stride: int = 1  # stride of the pair embedding
    skip_dropout: tuple[float, ...] = (0.6, 0.4, 0.2)  # shallowest first; at test too
    lambda_f: bool = True  # weight of the foreground in Eq. (2)
    lambda_m: bool = True  # weight of the mask in Eq. (2)
    rotation: float = 0.0  # degrees of random rotation of a training pair
    textures: int = 64  # procedural textures, unless a folder is given
    texture_size: int = 256  # side of a texture, pixels
    schedule: str = "step"  # step (x0.2 at 80 % and 90 %) | cosine (50 warm-up steps)
    steps: int = 23_000
    passes: int = 1  # stochastic passes that are averaged at test time
    score_window: int = 21  # side of the mean filter before the image maximum, pixels
    dtype: str = "float32"  # compute type; parameters and statistics stay float32
    remat: bool = False  # recompute Swin blocks in the backward pass


class Networks(NamedTuple):
    """Modules by the names of their parameters; None where a variant has none."""

    reconstruction: Mapping[str, object]  # modality -> network
    pair_embed: object
    fusion: object
    discriminator: object


class Pass(NamedTuple):
    """One forward pass over a batch."""

    reconstructions: Mapping[str, tuple[Array, ...]]  # modality -> K of [B,H,W,C]
    maps: Array  # [K,B,H,W,2] probabilities of normal and anomalous
    weights: Array | None  # [K,B,h,w,2] importance of RGB and depth
    sums: Tree  # statistics of the batch norms, by parameter group


def build_networks(config: Config) -> Networks:
    """Returns the modules of the variant, unbound to parameters."""
    dtype = jnp.dtype(config.dtype)
    width = config.discriminator_width
    early = config.fusion == "early"

    def branch(modality: str):
        shared = dict(
            out_channels=CHANNELS[modality],
            skip_dropout=config.skip_dropout,
            scales=config.scales,
            dtype=dtype,
        )
        if config.reconstruction == "res_unet":
            widths = tuple(config.reconstruction_width * 2**i for i in range(5))
            return ResUnet(widths=widths, **shared)
        return SwinUnet(
            embed=config.embed,
            window=config.window,
            drop_path=config.drop_path,
            remat=config.remat,
            **shared,
        )

    fusions = {
        "importance": ImportanceScoring(features=width, dtype=dtype),
        "concat": ConcatFusion(features=width, dtype=dtype),
    }
    if config.discriminator == "swin":
        discriminator = SwinUnet(
            out_channels=2,
            embed=config.embed,
            depths=(2, 2, 2, 2),
            window=config.window,
            drop_path=config.drop_path,
            scales=1,
            dtype=dtype,
            remat=config.remat,
        )
    else:
        discriminator = UNet(
            widths=tuple(width * f for f in (1, 2, 4, 8, 8, 8)),
            first_convs=2 if early else 1,
            dtype=dtype,
        )
    pair_embed = PairEmbed(features=width, stride=config.pair_stride, dtype=dtype)
    return Networks(
        reconstruction={m: branch(m) for m in config.modalities},
        pair_embed=None if early else pair_embed,
        fusion=fusions.get(config.fusion) if len(config.modalities) == 2 else None,
        discriminator=discriminator,
    )


def forward(
    config: Config,
    networks: Networks,
    scope: Scope,
    inputs: Mapping[str, Array],
    keys: Array,
    identical: Mapping[str, Array] | None = None,
) -> Pass:
    """Restores each modality and compares input with reconstruction.

    Args:
        config: structure of the system.
        networks: modules of `build_networks`.
        scope: parameters and statistics.
        inputs: modality -> [B,H,W,C], corrupted while training.
        keys: [B] keys of the skip dropout, which is on at test time too (paper §3.2).
        identical: modality -> [B] bool, samples whose pair is [input, input] instead of
            [input, reconstruction], which drives the importance to the other modality.

    Returns:
        Reconstructions, maps, importance weights and batch statistics.
    """
    sums: dict = {}
    size = next(iter(inputs.values())).shape[1:3]
    reconstructions = {}
    for number, (modality, network) in enumerate(networks.reconstruction.items()):
        heads = scope.apply(
            sums,
            modality,
            network,
            inputs[modality],
            keys=fold_each(keys, number),
            weight=scope.weight,
        )
        # Heads are read at their own scale and enlarged straight to the image size,
        # which blurs them more and more (paper §3.2).
        reconstructions[modality] = tuple(
            resize_bilinear(head.astype(jnp.float32), size) for head in heads
        )
    pairs = {}
    for modality, scales in reconstructions.items():
        original = jnp.stack([inputs[modality]] * len(scales))
        restored = jnp.stack(scales)
        if identical is not None:
            same = identical[modality][None, :, None, None, None]
            restored = jnp.where(same, original, restored)
        pairs[modality] = (merge(original), merge(restored))
    maps, weights = discriminate(config, networks, scope, sums, pairs)
    scales = config.scales
    return Pass(
        reconstructions=reconstructions,
        maps=maps.reshape(scales, -1, *maps.shape[1:]),
        weights=None
        if weights is None
        else weights.reshape(scales, -1, *weights.shape[1:]),
        sums=sums,
    )


def discriminate(config, networks, scope, sums, pairs) -> tuple[Array, Array | None]:
    """Returns class probabilities [K*B,H,W,2] and importance weights or None.

    `pairs` maps a modality to (input, reconstruction), each [K*B,H,W,C]: the scales lie
    along the batch axis and share the discriminator (paper §3.3).
    """
    weight = scope.weight
    if weight is not None:
        weight = jnp.tile(weight, config.scales)
    apply = partial(scope.apply, sums, weight=weight)
    size = next(iter(pairs.values()))[0].shape[1:3]
    weights = None
    if config.fusion == "early":
        fused = jnp.concatenate([x for pair in pairs.values() for x in pair], axis=-1)
    else:
        features = embed_pairs(networks, apply, pairs)
        if len(features) == 1:
            (fused,) = features
        elif config.fusion == "importance":
            fused, weights = apply("fusion", networks.fusion, *features)
        elif config.fusion == "concat":
            fused = apply("fusion", networks.fusion, *features)
        else:
            fused = features[0] * features[1]
    if config.discriminator == "swin":
        # No dropout in the discriminator, hence no keys.
        (logits,) = apply("discriminator", networks.discriminator, fused, keys=None)
    else:
        logits = apply("discriminator", networks.discriminator, fused)
    logits = resize_bilinear(logits.astype(jnp.float32), size)
    return jax.nn.softmax(logits, axis=-1), weights


def embed_pairs(networks, apply, pairs) -> list[Array]:
    """Encodes each single channel with its reconstruction; averages over RGB's three.

    All channels of both modalities go through the one embedding in one call, so that
    they share its batch statistics.
    """
    singles = [
        jnp.stack([x[..., c], y[..., c]], axis=-1)
        for x, y in pairs.values()
        for c in range(x.shape[-1])
    ]
    stacked = jnp.concatenate(singles)
    weight = apply.keywords["weight"]
    if weight is not None:
        weight = jnp.tile(weight, len(singles))
    embedded = apply("pair_embed", networks.pair_embed, stacked, weight=weight)
    embedded = embedded.reshape(len(singles), -1, *embedded.shape[1:])
    features, start = [], 0
    for x, _ in pairs.values():
        features.append(jnp.mean(embedded[start : start + x.shape[-1]], axis=0))
        start += x.shape[-1]
    return features


def merge(x: Array) -> Array:
    """Returns [K,B,...] as [K*B,...]."""
    return x.reshape(-1, *x.shape[2:])
