"""The table of all systems for the protocol suite: one row each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from reference_systems import bank, critic, make_batch, neighbours, restorer

from ad3d_jax.base import Batch, System
from ad3d_jax.systems import (
    btf,
    das3d,
    draem,
    easynet,
    padim,
    patchcore,
    simplenet,
)
from ad3d_jax.systems.dbrn import Config, dbrn
from ad3d_jax.systems.dsr import dsr, dsr3d


class Row(NamedTuple):
    """A system at a size that trains in seconds."""

    name: str
    make: Callable[[], System]  # steps enough to find the planted defect
    make_batch: Callable[..., Batch]  # (count, seed=, defect=) -> host batch
    stochastic: frozenset[str] = frozenset()  # of: train, gather, score
    slow: bool = False  # compiles for more than a few seconds
    # Adam makes the rounding of its gradients large: clause 12 compares single steps.
    single_steps: bool = False
    # Most that scores differ between batch sizes, which are programs of their own.
    rounding: float = 1e-6


def board(size: int, rails: bool = True) -> Callable[..., Batch]:
    """Returns a maker of samples of the textured board."""

    def make(count, seed=0, defect=False):
        return make_batch(count, size=size, seed=seed, defect=defect, rails=rails)

    return make


def with_hyper(system: System, **values: float) -> System:
    """Returns the system with other hyperparameters than its factory's."""

    def init(key, batch):
        state = system.init(key, batch)
        changed = {name: jnp.float32(value) for name, value in values.items()}
        return state._replace(hyper={**state.hyper, **changed})

    return system._replace(init=init)


def small_dbrn() -> System:
    """Returns DBRN with the narrowest networks that find the defect."""
    config = Config(
        reconstruction="res_unet",
        reconstruction_width=4,
        discriminator_width=4,
        scales=1,
        textures=4,
        texture_size=32,
        schedule="cosine",
        steps=250,
        score_window=5,
    )
    rates = ("reconstruction", "discriminator", "importance")
    return with_hyper(dbrn(config), **{f"learning_rate_{name}": 3e-3 for name in rates})


def small_das3d() -> System:
    """Returns DAS3D with the narrowest networks that find the defect."""
    config = das3d.Config(
        reconstruction="auto_encoder",
        reconstruction_width=4,
        reconstruction_levels=2,
        discriminator_width=4,
        discriminator_levels=2,
        sigma=(0.5, 1.5),
        textures=4,
        texture_size=32,
        schedule="cosine",
        epochs=60,
        score_window=5,
    )
    return with_hyper(das3d.das3d(config), learning_rate=3e-3)


def small_draem() -> System:
    """Returns DRAEM with the narrowest networks that find the defect."""
    config = draem.Config(
        modalities=("rgb", "depth"),
        reconstruction_width=4,
        reconstruction_levels=2,
        discriminator_width=4,
        discriminator_levels=2,
        textures=4,
        texture_size=32,
        schedule="cosine",
        epochs=200,
        score_window=5,
    )
    return with_hyper(draem.draem(config), learning_rate=1e-3, probability_rotation=0.0)


def small_easynet(mode: str, layers: int) -> System:
    """Returns EasyNet with the narrowest networks that find the defect."""
    config = easynet.Config(
        mode=mode,
        layers=layers,
        width=4,
        halvings=2,
        mlp_width=16,
        textures=4,
        texture_size=32,
        schedule="cosine",
        epochs=300,
        score_window=5,
    )
    numbers = dict(
        learning_rate=3e-3,
        probability_normal=0.3,
        probability_single=0.5,
        beta_max=1.0,
    )
    return with_hyper(easynet.easynet(config), **numbers)


def small_dsr(make: Callable, config: type, **fields) -> System:
    """Returns DSR or 3DSR with the narrowest networks that find the defect."""
    small = config(
        dada_hidden=16,
        dada_residual=8,
        dada_residual_layers=1,
        dada_kernels="he",
        dada_schedule="cosine",
        dada_steps=300,
        codes=32,
        code_dimensions=16,
        code_revive_below=0.01,
        restriction_widths=(16, 32),
        decoder_width=8,
        segmentation_width=8,
        schedule="cosine",
        steps=600,
        score_window=5,
        **fields,
    )
    numbers = dict(
        dada_learning_rate=3e-3,
        learning_rate=3e-3,
        probability_normal=0.3,
        probability_rotation=0.0,
        threshold_low=0.3,
        threshold_high=0.5,
        strength_low=0.5,
    )
    return with_hyper(make(small), **numbers)


def small_simplenet() -> System:
    """Returns SimpleNet on two early layers of a random ResNet-18."""
    config = simplenet.Config(
        modalities=("rgb", "depth"),
        backbone="resnet18",
        layers=("layer1", "layer2"),
        dimensions=32,
        hidden=128,
        epochs=100,
        sigma=1.0,
    )
    rates = {f"learning_rate_{name}": 1e-3 for name in ("adaptor", "discriminator")}
    return with_hyper(simplenet.simplenet(config), noise=0.05, **rates)


def small_patchcore() -> System:
    """Returns PatchCore on two early layers of a random ResNet-18."""
    config = patchcore.Config(
        modalities=("rgb", "depth"),
        backbone="resnet18",
        layers=("layer1", "layer2"),
        dimensions=24,
        fraction=0.5,
        distance="l2",
        reweight="paper",
        support=3,
        sigma=1.0,
        match=True,
        chunk_bytes=2**16,
    )
    return patchcore.patchcore(config)


def small_btf(features: str) -> System:
    """Returns BTF with 4-pixel cells; its network two early layers of a ResNet-18."""
    config = btf.Config(
        features=features,
        backbone="resnet18",
        layers=("layer1", "layer2"),
        cells=8,
        fraction=0.5,
        blur_radius=1.0,
        match=True,
        chunk_bytes=2**16,
    )
    return btf.btf(config)


def small_padim() -> System:
    """Returns PaDiM on one early layer of a random ResNet-18."""
    config = padim.Config(
        modalities=("rgb", "depth"),
        backbone="resnet18",
        layers=("layer1",),
        dimensions=32,
        sigma=1.0,
        block_bytes=2**16,
    )
    return padim.padim(config)


TABLE = (
    Row("restorer", restorer, board(16, rails=False), frozenset({"train"})),
    Row("critic", critic, board(16, rails=False), frozenset({"train", "score"})),
    Row("bank", bank, board(16, rails=False)),
    Row("neighbours", neighbours, board(16, rails=False), frozenset({"gather"})),
    Row("patchcore", small_patchcore, board(32), frozenset({"gather"})),
    Row(
        "btf",
        partial(small_btf, "rgb_fpfh"),
        board(32),
        frozenset({"gather"}),
        slow=True,
    ),
    Row("btf_hog", partial(small_btf, "hog"), board(32)),
    Row("padim", small_padim, board(32)),
    Row("simplenet", small_simplenet, board(32), frozenset({"train"}), slow=True),
    Row("draem", small_draem, board(32), frozenset({"train"}), slow=True),
    Row(
        "easynet",
        partial(small_easynet, "fusion1", 2),
        board(32),
        frozenset({"train", "gather"}),
        slow=True,
        single_steps=True,
    ),
    Row(
        "easynet_in_turn",
        partial(small_easynet, "fusion2", 1),
        board(32),
        frozenset({"train", "gather"}),
        slow=True,
        single_steps=True,
    ),
    Row("das3d", small_das3d, board(32), frozenset({"train"}), slow=True),
    Row(
        "dsr",
        partial(small_dsr, dsr.dsr, dsr.Config, upsampler_width=4, upsampler_steps=200),
        board(32),
        frozenset({"train"}),
        slow=True,
        single_steps=True,
    ),
    Row(
        "dsr3d",
        partial(small_dsr, dsr3d.dsr3d, dsr3d.Config, patch_sides=(1, 2)),
        board(32),
        frozenset({"train"}),
        slow=True,
        single_steps=True,
        # One rounding of its weights moves the fitted network's map by up to 4e-6.
        rounding=1e-5,
    ),
    Row(
        "dbrn",
        small_dbrn,
        board(32),
        frozenset({"train", "score"}),
        slow=True,
        # One rounding of its input moves the fitted network's map by 1e-5 to 4e-5.
        rounding=1e-5,
    ),
)
