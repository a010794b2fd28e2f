"""DBRN: dual-branch reconstruction of RGB and depth, judged by one discriminator.

C. Bi, Y. Li, H. Luo, "Dual-Branch Reconstruction Network for Industrial Anomaly
Detection with RGB-D Data", arXiv 2311.06797. No official code is known; where the paper
is silent the card `docs/systems/dbrn.md` names our choice.

Each training step corrupts normal samples on the device, restores them with one network
a modality at several scales, and segments what was restored: the discriminator compares
input and reconstruction of both modalities after an importance scoring module has
weighted them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ad3d_jax import losses
from ad3d_jax.base import (
    ALONE,
    Across,
    Array,
    Batch,
    Scores,
    State,
    System,
    Train,
    Tree,
    Update,
    sample_keys,
)
from ad3d_jax.nn import batch_norm
from ad3d_jax.nn.importance import ConcatFusion, ImportanceScoring, PairEmbed
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.res_unet import ResUnet
from ad3d_jax.nn.swin_unet import SwinUnet
from ad3d_jax.nn.unet import UNet
from ad3d_jax.ops.blur import mean_filter
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.synthesis.rgbd import Corruption, corrupt, rotate_pair
from ad3d_jax.synthesis.textures import procedural_textures

SCALE_NAMES = ("full", "quarter", "eighth")


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


HYPER: Mapping[str, float] = {
    "learning_rate_reconstruction": 1e-4,
    "learning_rate_discriminator": 1e-4,
    "learning_rate_importance": 1e-3,
    "probability_normal": 0.5,
    "probability_cut_out": 0.25,
    "probability_single": 0.0,
    "beta_max": 0.8,
    "probability_identical_rgb": 0.25,
    "probability_identical_depth": 0.25,
    "focal_alpha": 0.75,
    "loss_rgb": 1.0,
    "loss_depth": 1.0,
    "loss_focal": 1.0,
}

CHANNELS = {"rgb": 3, "depth": 1}
# What a modality's reconstruction shows: normalised depth is height over the table.
PICTURES = {"rgb": "rgb", "depth": "height"}
# What a parameter group learns with; the paper uses three learning rates.
RATES = {
    "rgb": "reconstruction",
    "depth": "reconstruction",
    "pair_embed": "discriminator",
    "discriminator": "discriminator",
    "fusion": "importance",
}


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


def dbrn(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    check(config)
    networks = build_networks(config)
    depth_field = "extras.depth_normalised"
    needs = tuple({"rgb": "rgb", "depth": depth_field}[m] for m in config.modalities)
    train = Train(
        name="train",
        updates=(
            Update(
                loss=partial(loss, config, networks),
                optimizer=partial(optimizer, config),
            ),
        ),
        steps=config.steps,
        fold=fold,
    )
    return System(
        name="dbrn",
        needs_fit=(*needs, "foreground"),
        needs_score=needs,
        init=partial(init, config, networks),
        phases=(train,),
        score=partial(score, config, networks),
    )


def check(config: Config) -> None:
    """Raises ValueError where a field holds a value that no variant has."""
    allowed = {
        "modalities": (("rgb", "depth"), ("rgb",), ("depth",)),
        "reconstruction": ("swin", "res_unet"),
        "discriminator": ("unet", "swin"),
        "fusion": ("importance", "early", "hadamard", "concat"),
        "schedule": ("step", "cosine"),
        "scales": (1, 3),
        "dtype": ("float32", "bfloat16"),
    }
    for name, values in allowed.items():
        value = getattr(config, name)
        if value not in values:
            raise ValueError(f"model.{name}: expected one of {values}, found {value!r}")
    if config.fusion == "early" and len(config.modalities) == 1:
        raise ValueError("model.fusion=early joins two modalities, found one")


# --- Networks -------------------------------------------------------------------------


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


class Scope(NamedTuple):
    """Parameters, statistics and reductions that every module of one pass shares."""

    params: Tree
    batch_stats: Tree
    train: bool
    weight: Array | None
    across: Across

    def apply(self, sums: dict, name: str, module, *inputs, weight=None, **kwargs):
        """Applies a module and files the statistics it gathered under its name."""
        variables = {"params": self.params[name]}
        if name in self.batch_stats:
            variables["batch_stats"] = self.batch_stats[name]
        kwargs = dict(kwargs, train=self.train, weight=weight, across=self.across)
        if not self.train:
            return module.apply(variables, *inputs, **kwargs)
        outputs, gathered = module.apply(variables, *inputs, mutable=["sums"], **kwargs)
        if gathered:
            sums[name] = gathered["sums"]
        return outputs


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


def fold_each(keys: Array, number: int) -> Array:
    """Returns one new key for each of [B] keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


# --- The phase ------------------------------------------------------------------------


def init(config: Config, networks: Networks, key: Array, batch: Batch) -> State:
    """Returns fresh parameters, batch statistics, procedural textures and constants."""
    height, width = (
        batch.foreground.shape[1:3] if batch.rgb is None else (batch.rgb.shape[1:3])
    )
    half = -(-height // config.pair_stride), -(-width // config.pair_stride)
    features = config.discriminator_width
    shapes = {m: ((1, height, width, CHANNELS[m]),) for m in networks.reconstruction}
    modules = dict(networks.reconstruction)
    if networks.pair_embed is not None:
        modules["pair_embed"] = networks.pair_embed
        shapes["pair_embed"] = ((1, height, width, 2),)
    if networks.fusion is not None:
        modules["fusion"] = networks.fusion
        shapes["fusion"] = ((1, *half, features),) * 2
    modules["discriminator"] = networks.discriminator
    if config.fusion == "early":
        shapes["discriminator"] = ((1, height, width, 8),)
    else:
        shapes["discriminator"] = ((1, *half, features),)

    def build(key):
        keys = iter(jax.random.split(key, len(modules) + 1))
        variables = {
            name: module.init(
                next(keys),
                *(jnp.zeros(shape) for shape in shapes[name]),
                train=False,
                **({"keys": None} if takes_keys(module) else {}),
            )
            for name, module in modules.items()
        }
        textures = procedural_textures(next(keys), config.textures, config.texture_size)
        return variables, textures

    variables, textures = initialise(build, key)
    return State(
        params={name: v["params"] for name, v in variables.items()},
        frozen={"textures": textures},
        extra={
            "batch_stats": {
                name: v["batch_stats"]
                for name, v in variables.items()
                if "batch_stats" in v
            }
        },
        hyper={name: jnp.float32(value) for name, value in HYPER.items()},
    )


def takes_keys(module) -> bool:
    """Returns whether a module has dropout."""
    return isinstance(module, SwinUnet | ResUnet)


def loss(
    config: Config,
    networks: Networks,
    keys: Array,
    params: Tree,
    state: State,
    batch: Batch,
    across: Across,
) -> tuple[Array, Tree, Mapping[str, Array]]:
    """Reconstruction of both modalities plus focal segmentation, Eq. (5)."""
    hyper = state.hyper
    clean = modality_inputs(config, batch)
    foreground = batch.foreground.astype(jnp.float32)
    if config.rotation:
        rgb, depth, foreground = rotate_pair(
            fold_each(keys, 3),
            clean.get("rgb"),
            clean.get("depth"),
            foreground,
            config.rotation,
        )
        clean = {m: x for m, x in (("rgb", rgb), ("depth", depth)) if x is not None}
    corruption = Corruption(
        p_normal=hyper["probability_normal"],
        p_cut_out=hyper["probability_cut_out"],
        p_single=hyper["probability_single"],
        beta_high=hyper["beta_max"],
    )
    made = corrupt(
        fold_each(keys, 0),
        clean.get("rgb"),
        clean.get("depth"),
        foreground,
        state.frozen["textures"],
        corruption,
    )
    inputs = {m: getattr(made, m) for m in config.modalities}
    identical = None
    if len(config.modalities) == 2:
        draw = jax.vmap(jax.random.uniform)(fold_each(keys, 1))
        rgb, depth = (hyper[f"probability_identical_{m}"] for m in ("rgb", "depth"))
        identical = {
            "rgb": draw < rgb,
            "depth": (draw >= rgb) & (draw < rgb + depth),
        }
    scope = Scope(params, state.extra["batch_stats"], True, batch.weight, across)
    out = forward(config, networks, scope, inputs, fold_each(keys, 2), identical)

    info = {}
    total = jnp.zeros(batch.weight.shape)
    for modality, scales in out.reconstructions.items():
        terms = [
            losses.set_weighted_reconstruction(
                clean[modality],
                reconstruction,
                foreground,
                made.mask,
                lambda_f=config.lambda_f,
                lambda_m=config.lambda_m,
            )
            for reconstruction in scales
        ]
        info[f"reconstruction_{modality}"] = sum(terms) / len(terms)
        total = total + hyper[f"loss_{modality}"] * info[f"reconstruction_{modality}"]
    alpha = hyper["focal_alpha"]
    focal = losses.focal_loss(
        out.maps, made.mask[None, ..., 0], alpha=(1.0 - alpha, alpha)
    )
    info["focal"] = jnp.mean(focal, axis=(0, 2, 3))
    total = total + hyper["loss_focal"] * info["focal"]
    info["mask_area"] = jnp.mean(made.mask, axis=(1, 2, 3))
    return total, out.sums, info


def fold(extra: Tree, sums: Tree) -> Tree:
    """Moves the running batch statistics towards those of the step."""
    stats = dict(extra["batch_stats"])
    for name, gathered in sums.items():
        stats[name] = batch_norm.fold(stats[name], gathered)
    return {"batch_stats": stats}


def optimizer(
    config: Config, hyper: Mapping[str, Array], steps: int
) -> optax.GradientTransformation:
    """Adam with three learning rates under one schedule (paper §4.1; sheet §5)."""

    def shape(count):
        if config.schedule == "step":
            return 0.2 ** ((count >= 0.8 * steps) * 1.0 + (count >= 0.9 * steps) * 1.0)
        warm = jnp.minimum(1.0, (count + 1) / 50)
        return warm * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count / steps, 1.0)))

    def adam(group):
        rate = hyper[f"learning_rate_{group}"]
        return optax.adam(lambda count: rate * shape(count))

    groups = sorted(set(RATES.values()))
    return optax.partition(
        {group: adam(group) for group in groups},
        lambda params: {
            name: jax.tree.map(lambda _, name=name: RATES[name], tree)
            for name, tree in params.items()
        },
    )


def modality_inputs(config: Config, batch: Batch) -> dict[str, Array]:
    """Returns the network inputs by modality, each [B,H,W,C]."""
    fields = {"rgb": batch.rgb, "depth": batch.extras.get("depth_normalised")}
    return {m: fields[m] for m in config.modalities}


# --- Scoring --------------------------------------------------------------------------


def score(
    config: Config, networks: Networks, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns the mean map over scales and its smoothed maximum, row by row."""
    inputs = modality_inputs(config, batch)
    keys = sample_keys(key, batch)
    scope = Scope(state.params, state.extra["batch_stats"], False, None, ALONE)
    passes = [
        forward(config, networks, scope, inputs, fold_each(keys, number))
        for number in range(config.passes)
    ]
    per_scale = sum(p.maps[..., 1:] for p in passes) / len(passes)
    fused = jnp.mean(per_scale, axis=0)
    smooth = mean_filter(fused, config.score_window)
    parts = {}
    last = passes[-1]
    for number in range(config.scales):
        name = SCALE_NAMES[number]
        if config.scales > 1:
            parts[f"map_{name}"] = per_scale[number]
        for modality, scales in last.reconstructions.items():
            shown = PICTURES[modality]
            parts[f"reconstruction_{shown}_{name}"] = scales[number]
    if last.weights is not None:
        weight_rgb = jnp.mean(last.weights, axis=0)[..., :1]
        parts["importance_rgb"] = resize_bilinear(weight_rgb, fused.shape[1:3])
    return Scores(map=fused, image=jnp.max(smooth, axis=(1, 2, 3)), parts=parts)
