"""The discrete auto-encoder under DSR and 3DSR, and its pretraining on natural images.

3DSR: V. Zavrtanik, M. Kristan, D. Skocaj, "Cheating Depth: Enhancing 3D Surface Anomaly
Detection via Depth Simulation", WACV 2024, arXiv 2311.01117, where it is called DADA;
DSR: the same authors, ECCV 2022, arXiv 2208.01521, without depth.

Natural images are joined with depth that has nothing to do with them, simulated anew
in every step. The networks learn to reconstruct both from two levels of codes, while
the codebooks follow the vectors that were nearest to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Pretrained, State, Train, Tree, Update, fold_each
from ad3d_jax.nn.discrete_auto_encoder import KERNELS, DiscreteAutoEncoder
from ad3d_jax.ops import codebook
from ad3d_jax.ops.codebook import Codebook, nearest_code, straight_through
from ad3d_jax.schedules import SCHEDULES, adam
from ad3d_jax.synthesis.depth import simulate_depth
from ad3d_jax.synthesis.rgbd import LUMA
from ad3d_jax.systems.dsr import published
from ad3d_jax.systems.fields import DTYPES, SHARE, Fields, one_of, within
from ad3d_jax.systems.modalities import CHANNELS

NAME = "dada"
LEVELS = ("lo", "hi")
HYPER: Mapping[str, float] = {
    "dada_learning_rate": 2e-4,
    "dada_loss_commitment": 0.25,
    "dada_loss_depth": 1.0,  # weight of depth in the mean over channels; 3 = as RGB
}


@dataclass(frozen=True)
class Config(Fields):
    """Fields that every system on a discrete auto-encoder has.

    The defaults are 3DSR's with RGB and depth.
    """

    # In the order of the channels.
    modalities: tuple[str, ...] = one_of(("depth", "rgb"), ("depth",), ("rgb",))
    dada_grouped: bool = True  # modalities apart but in the choice of a code
    dada_hidden: int = 256
    dada_residual: int = 128
    dada_residual_layers: int = 2
    dada_relu_skip: bool = False  # see `nn.residual_stack`; True in DSR
    dada_kernels: str = one_of(*KERNELS)  # how they start; "he" in narrow networks
    codes: int = 2048  # entries of each codebook
    code_dimensions: int = 256
    # Of the codebooks' moving averages, a step.
    code_decay: float = within(SHARE, codebook.DECAY)
    code_revive_below: float = 0.0  # hits a batch, see `fold_codebook`; 0 = never
    simulation: str = one_of("perlin_affine", "perlin", "grey")  # grey of the image
    dada_distance: str = one_of("l1", "l2")  # the depth-only version has l2
    dada_schedule: str = one_of(*SCHEDULES)  # step: x0.1 at 80 % and 90 %
    dada_steps: int = 100_000
    dtype: str = one_of(*DTYPES)


class Codes(NamedTuple):
    """Both discrete levels of a batch; h = H/4, w = W/4, all but indices float32."""

    encoded_hi: Array  # [B,h,w,hidden]
    z_lo: Array  # [B,h/2,w/2,D], before quantisation
    q_lo: Array  # [B,h/2,w/2,D], the nearest codes
    index_lo: Array  # [B,h/2,w/2] int32
    enlarged: Array  # [B,h,w,D], q_lo at the size of the higher level
    z_hi: Array  # [B,h,w,D]
    q_hi: Array  # [B,h,w,D]
    index_hi: Array  # [B,h,w] int32
    reconstruction: Array  # [B,H,W,C]


def build(config: Config) -> DiscreteAutoEncoder:
    """Returns the auto-encoder, unbound to parameters."""
    channels = tuple(CHANNELS[modality] for modality in config.modalities)
    return DiscreteAutoEncoder(
        channels=channels if config.dada_grouped else (sum(channels),),
        hidden=config.dada_hidden,
        residual=config.dada_residual,
        residual_layers=config.dada_residual_layers,
        dimensions=config.code_dimensions,
        relu_skip=config.dada_relu_skip,
        kernels=config.dada_kernels,
        dtype=jnp.dtype(config.dtype),
    )


def init(config: Config, key: Array) -> tuple[Tree, dict[str, Codebook]]:
    """Returns fresh parameters and codebooks {"lo", "hi"}."""
    module = build(config)
    key, *book_keys = jax.random.split(key, 1 + len(LEVELS))
    params = module.init(key, jnp.zeros((1, 16, 16, sum(module.channels))))["params"]
    codebooks = {
        level: codebook.init_codebook(book_key, config.codes, config.code_dimensions)
        for level, book_key in zip(LEVELS, book_keys, strict=True)
    }
    return params, codebooks


def forward(
    module: DiscreteAutoEncoder,
    params: Tree,
    codebooks: Mapping[str, Codebook],
    x: Array,
) -> Codes:
    """Returns the codes of images [B,H,W,C] and what is reconstructed from them.

    Args:
        module: of `build`.
        params: of the module.
        codebooks: {"lo", "hi"}.
        x: channels in the order of `Config.modalities`; H and W divisible by 8.

    Gradients pass straight through both quantisations.
    """

    def call(method, *inputs):
        return module.apply({"params": params}, *inputs, method=method)

    def quantise(level, z):
        codes = codebooks[level].codes
        index = nearest_code(codes, z)
        q = jnp.take(codes, index, axis=0)
        return index, q, straight_through(z, q)

    encoded_hi = call("encode_hi", x)
    z_lo = call("encode_lo", encoded_hi)
    index_lo, q_lo, through_lo = quantise("lo", z_lo)
    enlarged = call("enlarge", through_lo)
    z_hi = call("merge", encoded_hi, enlarged)
    index_hi, q_hi, through_hi = quantise("hi", z_hi)
    reconstruction = call("decode", enlarged, through_hi)
    return Codes(
        encoded_hi,
        z_lo,
        q_lo,
        index_lo,
        enlarged,
        z_hi,
        q_hi,
        index_hi,
        reconstruction,
    )


# --- Pretraining ----------------------------------------------------------------------


def pretrain_phase(config: Config) -> Train:
    """Returns the phase that fills params["dada"] and extra["codebooks"]."""
    module = build(config)
    channels = [(name, CHANNELS[name]) for name in config.modalities]

    def loss(keys, params, state, batch, across):
        """Reconstruction plus the commitment of both levels to their codes."""
        hyper, codebooks = state.hyper, state.extra["codebooks"]
        x = pretraining_images(config, fold_each(keys, 0), batch.rgb)
        codes = forward(module, params[NAME], codebooks, x)
        error = jnp.abs(x - codes.reconstruction)
        error = jnp.mean(error if config.dada_distance == "l1" else error**2, (1, 2))
        by_name = {"depth": hyper["dada_loss_depth"], "rgb": 1.0}
        weights = [by_name[name] * jnp.ones(count) for name, count in channels]
        weights = jnp.concatenate(weights)[None, :]
        total = jnp.sum(weights * error, axis=1) / jnp.sum(weights)
        info, sums = {"reconstruction": total}, {}
        levels = {
            "lo": (codes.z_lo, codes.q_lo, codes.index_lo),
            "hi": (codes.z_hi, codes.q_hi, codes.index_hi),
        }
        for number, (level, (z, q, index)) in enumerate(levels.items()):
            info[f"commitment_{level}"] = jnp.mean((z - q) ** 2, (1, 2, 3))
            own = fold_each(keys, 1 + number)
            sums[level] = codebook.code_sums(config.codes, z, index, batch.weight, own)
        commitment = info["commitment_lo"] + info["commitment_hi"]
        total = total + hyper["dada_loss_commitment"] * commitment
        return total, {"codebooks": sums}, info

    def optimizer(hyper, steps):
        rate = hyper["dada_learning_rate"]
        return adam(config.dada_schedule, rate, steps, factor=0.1)

    def fold(extra, sums):
        """Returns `extra` with both codebooks moved by a batch."""
        codebooks = {
            level: codebook.fold_codebook(
                extra["codebooks"][level],
                sums["codebooks"][level],
                decay=config.code_decay,
                revive_below=config.code_revive_below,
            )
            for level in LEVELS
        }
        return {**extra, "codebooks": codebooks}

    return Train(
        name=NAME,
        updates=(Update(loss, optimizer, trainable=(NAME,)),),
        steps=config.dada_steps,
        source="images",
        needs=("rgb",),
        fold=fold,
        health=lambda extra: level_health(extra["codebooks"]),
        pretrained=NAME,
    )


def pretraining_images(config: Config, keys: Array, rgb: Array) -> Array:
    """Returns natural images with simulated depth, as `modalities` says, [B,H,W,C]."""
    images = {"rgb": rgb}
    if config.simulation == "grey":
        images["depth"] = jnp.sum(rgb * LUMA[None, None, None], -1, keepdims=True)
    elif "depth" in config.modalities:
        affine = config.simulation == "perlin_affine"
        images["depth"] = simulate_depth(keys, *rgb.shape[1:3], affine)
    return jnp.concatenate([images[name] for name in config.modalities], axis=-1)


def level_health(codebooks: Mapping[str, Codebook], before: str = "") -> dict:
    """Returns perplexity and number of dead codes of both levels, see `health`."""
    return {
        f"{before}{name}_{level}": value
        for level in LEVELS
        for name, value in codebook.health(codebooks[level]).items()
    }


def put(state: State, tree: Tree) -> State:
    """Returns the state with the auto-encoder of a file."""
    return state._replace(
        params={**state.params, NAME: tree["params"]},
        extra={**state.extra, "codebooks": tree["codebooks"]},
    )


PRETRAINED = Pretrained(
    name=NAME,
    get=lambda state: {
        "params": state.params[NAME],
        "codebooks": state.extra["codebooks"],
    },
    put=put,
    read=published.read,
)
