"""The networks of DBRN: two reconstructions, their comparison, one discriminator."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, fold_each
from ad3d_jax.nn.importance import ConcatFusion, ImportanceScoring, PairEmbed
from ad3d_jax.nn.res_unet import ResUnet
from ad3d_jax.nn.scope import Scope, Shape
from ad3d_jax.nn.swin_unet import SwinUnet
from ad3d_jax.nn.unet import UNet, draem_widths
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.systems.modalities import CHANNELS


class Pass(NamedTuple):
    """One forward pass over a batch."""

    reconstructions: Mapping[str, tuple[Array, ...]]  # modality -> K of [B,H,W,C]
    maps: Array  # [K,B,H,W,2] probabilities of normal and anomalous
    weights: Array | None  # [K,B,h,w,2] importance of RGB and depth


def build_networks(config) -> dict:
    """Returns the modules of the variant by the names of their parameters.

    The modalities come first; "pair_embed" and "fusion" are there where the variant has
    them, "discriminator" always.

    Args:
        config: of `systems.dbrn`.
    """
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
            levels = range(config.reconstruction_levels + 1)
            widths = tuple(config.reconstruction_width * 2**i for i in levels)
            return ResUnet(widths=widths, order=config.residual_unit, **shared)
        return SwinUnet(
            embed=config.embed,
            window=config.window,
            drop_path=config.drop_path,
            remat=config.remat,
            **shared,
        )

    modules = {m: branch(m) for m in config.modalities}
    if not early:
        stride = config.pair_stride
        modules["pair_embed"] = PairEmbed(features=width, stride=stride, dtype=dtype)
    if len(config.modalities) == 2 and config.fusion == "importance":
        each_channel = config.importance == "channel"
        modules["fusion"] = ImportanceScoring(width, each_channel, dtype)
    if len(config.modalities) == 2 and config.fusion == "concat":
        modules["fusion"] = ConcatFusion(width, dtype)
    if config.discriminator == "swin":
        modules["discriminator"] = SwinUnet(
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
        modules["discriminator"] = UNet(
            widths=draem_widths(width, config.discriminator_levels),
            first_convs=2 if early else 1,
            dtype=dtype,
        )
    return modules


def input_shapes(
    config, networks: Mapping, size: tuple[int, int]
) -> dict[str, tuple[Shape, ...]]:
    """Returns the shapes of the inputs of each network for images of `size`."""
    image = 1, *size
    half = (1, *(-(-n // config.pair_stride) for n in size), config.discriminator_width)
    early = config.fusion == "early"
    return {
        **{m: ((*image, CHANNELS[m]),) for m in config.modalities},
        "pair_embed": ((*image, 2),),
        "fusion": (half, half),
        "discriminator": ((*image, 8) if early else half,),
    }


def forward(
    config,
    networks: Mapping,
    scope: Scope,
    inputs: Mapping[str, Array],
    keys: Array,
    identical: Mapping[str, Array] | None = None,
) -> Pass:
    """Restores each modality and compares input with reconstruction.

    Args:
        config: of `systems.dbrn`.
        networks: modules of `build_networks`.
        scope: parameters and statistics.
        inputs: modality -> [B,H,W,C], corrupted while training.
        keys: [B] keys of the skip dropout, which is on at test time too (paper §3.2).
        identical: modality -> [B] bool, samples whose pair is [input, input] instead of
            [input, reconstruction], which drives the importance to the other modality.
    """
    size = next(iter(inputs.values())).shape[1:3]
    reconstructions = {}
    for number, (modality, image) in enumerate(inputs.items()):
        own = fold_each(keys, number)
        heads = scope.apply(modality, networks[modality], image, keys=own)
        # Heads are read at their own scale and enlarged straight to the image size,
        # which blurs them more and more (paper §3.2).
        reconstructions[modality] = tuple(
            resize_bilinear(head.astype(jnp.float32), size) for head in heads
        )
    pairs = {}
    for modality, scales in reconstructions.items():
        original = jnp.stack([inputs[modality]] * len(scales))
        restored = jnp.stack(scales)
        if config.stop_gradient:
            restored = jax.lax.stop_gradient(restored)
        if identical is not None:
            same = identical[modality][None, :, None, None, None]
            restored = jnp.where(same, original, restored)
        pairs[modality] = (merge(original), merge(restored))
    scaled = scope._replace(rows=scope.rows.times(config.scales))
    maps, weights = discriminate(config, networks, scaled, pairs)

    def by_scale(x):
        return None if x is None else x.reshape(config.scales, -1, *x.shape[1:])

    return Pass(reconstructions, by_scale(maps), by_scale(weights))


def discriminate(
    config, networks: Mapping, scope: Scope, pairs: Mapping[str, tuple[Array, Array]]
) -> tuple[Array, Array | None]:
    """Returns class probabilities [K*B,H,W,2] and importance weights or None.

    `pairs` maps a modality to (input, reconstruction), each [K*B,H,W,C]: the scales lie
    along the batch axis and share the discriminator (paper §3.3), and so do the rows
    of the scope.
    """
    size = next(iter(pairs.values()))[0].shape[1:3]
    weights = None
    if config.fusion == "early":
        fused = jnp.concatenate([x for pair in pairs.values() for x in pair], axis=-1)
    else:
        features = embed_pairs(networks, scope, pairs)
        if len(features) == 1:
            (fused,) = features
        elif config.fusion == "importance":
            fused, weights = scope.apply("fusion", networks["fusion"], *features)
        elif config.fusion == "concat":
            fused = scope.apply("fusion", networks["fusion"], *features)
        else:
            fused = features[0] * features[1]
    logits = scope.apply("discriminator", networks["discriminator"], fused)
    if config.discriminator == "swin":
        (logits,) = logits  # of one scale
    logits = resize_bilinear(logits.astype(jnp.float32), size)
    return jax.nn.softmax(logits, axis=-1), weights


def embed_pairs(
    networks: Mapping, scope: Scope, pairs: Mapping[str, tuple[Array, Array]]
) -> list[Array]:
    """Encodes each single channel with its reconstruction; averages over RGB's three.

    All channels of both modalities go through the one embedding in one call, so that
    they share its batch statistics.
    """
    singles = [
        jnp.stack([x[..., c], y[..., c]], axis=-1)
        for x, y in pairs.values()
        for c in range(x.shape[-1])
    ]
    stacked, times = jnp.concatenate(singles), len(singles)
    embedded = scope.apply("pair_embed", networks["pair_embed"], stacked, times=times)
    embedded = embedded.reshape(len(singles), -1, *embedded.shape[1:])
    features, start = [], 0
    for x, _ in pairs.values():
        features.append(jnp.mean(embedded[start : start + x.shape[-1]], axis=0))
        start += x.shape[-1]
    return features


def merge(x: Array) -> Array:
    """Returns [K,B,...] as [K*B,...]."""
    return x.reshape(-1, *x.shape[2:])
