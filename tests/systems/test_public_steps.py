"""A training step of each reconstruction system, in float64, is that of public code.

The anomalies are given; loss, gradient, Adam and averages are the system's own. How the
stored outputs were made stands in tests/golden/README.md.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest

from ad3d_jax.base import ALONE, Batch, State, System
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.synthesis.anomalies import Anomalies
from ad3d_jax.systems import draem, easynet
from ad3d_jax.systems.dsr import auto_encoder, detector, dsr, dsr3d
from ad3d_jax.systems.fields import numbers
from ad3d_jax.testing.float64 import widened
from ad3d_jax.workdir import trees

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "steps.npz"
ROWS, KEPT = 2, 12  # samples, numbers that are stored of an array
KEY = jax.random.key(0)
ONE_TEXTURE = dict(textures=1, texture_size=4)
NARROW = dict(
    dada_hidden=32,
    dada_residual=16,
    codes=48,
    code_dimensions=32,
    decoder_width=64,
    segmentation_width=4,
)
DSR3D = dsr3d.Config(**NARROW, restriction_widths=(16, 32, 64))
DSR = dsr.Config(**NARROW, restriction_widths=(32, 64, 128), upsampler_width=4)
_3DSR = "3DSR", "VitjanZ/3DSR 6f83317"
_DSR = "DSR", "VitjanZ/DSR_anomaly_detection 672bfb8"


class Case(NamedTuple):
    """A phase of a system, and what its anomalies are taken to be."""

    source: tuple[str, str]  # system, public code
    label: str
    terms: tuple[str, ...]  # logged, which the public code adds up; their sum
    system: System
    phase: int
    state: State
    maker: tuple  # module and name of what draws anomalies
    made: tuple  # in their place
    averaged: str = ""  # in `State.extra`
    side: int = 64  # of the images, pixels
    # Constants such as SSIM's window stay float32, and batch norms magnify that.
    gradient_limit: float = 1e-6


# --- Weights and inputs ---------------------------------------------------------------


def drawn(tree, seed):
    """Returns a tree of the same shapes, drawn in the order of the leaves' names."""
    generator, filled = np.random.default_rng(seed), {}
    leaves = trees.by_name(tree)
    for name in sorted(leaves):
        shape, leaf = leaves[name].shape, name.rpartition("/")[2]
        value = generator.standard_normal(shape)
        if leaf == "kernel":
            value *= np.sqrt(2 / np.prod(shape[:-1]))
        elif leaf == "counts":
            value = 3 + np.abs(value)
        elif name.startswith("usage") or leaf in ("mean", "var"):
            value = np.full(shape, leaf == "var", float)
        elif leaf in ("bias", "scale"):
            value = 0.1 * value + (leaf == "scale")
        if "head" in name.split("/"):  # images near 0.5
            value = 0.1 * value + 0.5 * (leaf == "bias")
        filled[name] = np.float32(value)
    return jax.tree.unflatten(jax.tree.structure(tree), [filled[x] for x in leaves])


def batch(side):
    """Returns samples of zeros: what is seen of them is given."""
    image = np.zeros((ROWS, side, side, 3), np.float32)
    return Batch(
        rgb=image,
        depth=image[..., :1],
        foreground=image[..., :1] == 0,
        valid=image[..., :1] == 0,
        extras={"depth_normalised": image[..., :1]},
        weight=np.ones(ROWS, np.float32),
        id=np.arange(ROWS, dtype=np.int32),
    )


def state_of(system, hyper, seed, side=64):
    like = jax.eval_shape(system.init, KEY, batch(side))
    extra = drawn(like.extra, seed + 1)
    if "codebooks" in extra:
        books = {
            level: book._replace(totals=book.codes * book.counts[:, None])
            for level, book in extra["codebooks"].items()
        }
        extra = {**extra, "codebooks": books}
    return State(
        params=drawn(like.params, seed),
        frozen=jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like.frozen),
        extra=extra,
        hyper=numbers(hyper),
    )


def image(generator, channels, side=64):
    return generator.random((ROWS, side, side, channels)).astype(np.float32)


def squares(generator, cell, side=64):
    """Returns a mask of whole cells, of which a third are altered."""
    mask = generator.random((ROWS, side // cell, side // cell, 1)) < 0.3
    return np.float32(mask).repeat(cell, 1).repeat(cell, 2)


def textured(modalities, seed, side=64):
    """Returns given images, altered inside a mask."""
    generator, channels = np.random.default_rng(seed), {"rgb": 3, "depth": 1}
    clean = {m: image(generator, channels[m], side) for m in modalities}
    mask = squares(generator, 4, side)
    altered = {
        m: np.where(mask > 0, image(generator, channels[m], side), clean[m])
        for m in modalities
    }
    cases = dict.fromkeys(modalities, np.ones(ROWS, np.int32))
    return Anomalies(clean, altered, mask, cases=cases)


def swapped(state, channels, seed):
    """Returns a given image, codes of both levels, and some of them swapped."""
    generator = np.random.default_rng(seed)
    given, mask = image(generator, channels), squares(generator, 8)
    clean, altered = {}, {}
    for level, cells in (("lo", 8), ("hi", 16)):
        codes = state.extra["codebooks"][level].codes
        index, other = generator.integers(0, len(codes), (2, ROWS, cells, cells))
        step = 64 // cells
        taken = np.where(mask[:, ::step, ::step, 0] > 0, other, index)
        clean |= {f"q_{level}": codes[index], f"index_{level}": index.astype(np.int32)}
        altered[level] = codes[taken]
    absent = dict.fromkeys(set(auto_encoder.Codes._fields) - set(clean))
    return detector.Swapped(given, auto_encoder.Codes(**clean, **absent), altered, mask)


# --- The phases -----------------------------------------------------------------------


def draem_step():
    widths = dict(reconstruction_width=8, discriminator_width=8)
    system = draem.draem(draem.Config(**widths, **ONE_TEXTURE))
    return Case(
        ("DRAEM", "VitjanZ/DRAEM 2dbf673"),
        "training step",
        ("squared_rgb", "ssim_rgb", "focal", "loss"),
        system,
        0,
        state_of(system, draem.HYPER, 301),
        (draem, "corrupt"),
        textured(["rgb"], 303),
        "batch_stats",
        gradient_limit=1e-3,
    )


def easynet_step():
    system = easynet.easynet(easynet.Config(width=8, **ONE_TEXTURE))
    return Case(
        ("EasyNet", "TaoTao9/EasyNet be5981d"),
        "training step",
        ("rgb", "depth", "focal_rgb", "focal_fusion", "loss"),
        system,
        0,
        state_of(system, easynet.HYPER, 311, 32),
        (easynet, "make_anomalies"),
        textured(["rgb", "depth"], 313, 32),
        "batch_stats",
        32,
    )


def dsr3d_pretraining():
    system = dsr3d.dsr3d(DSR3D)
    return Case(
        _3DSR,
        "pretraining step",
        ("reconstruction", "commitment_lo", "commitment_hi", "loss"),
        system,
        0,
        state_of(system, dsr3d.HYPER, 321),
        (auto_encoder, "pretraining_images"),
        image(np.random.default_rng(323), 4),
        "codebooks",
    )


def dsr3d_step():
    system = dsr3d.dsr3d(DSR3D)
    state = state_of(system, dsr3d.HYPER, 331)
    return Case(
        _3DSR,
        "detector's step",
        ("codes_lo", "codes_hi", "image", "focal", "overlap", "loss"),
        system,
        1,
        state,
        (detector, "make_anomalies"),
        swapped(state, 4, 333),
    )


def dsr_step():
    system = dsr.dsr(DSR)
    state = state_of(system, dsr.HYPER, 341)
    return Case(
        _DSR,
        "detector's step",
        ("codes_lo", "codes_hi", "image", "focal", "loss"),
        system,
        1,
        state,
        (detector, "make_anomalies"),
        swapped(state, 3, 343),
    )


def dsr_refining():
    system, generator = dsr.dsr(DSR), np.random.default_rng(353)
    return Case(
        _DSR,
        "third phase's step",
        ("focal", "loss"),
        system,
        2,
        state_of(system, dsr.HYPER, 351),
        (dsr, "paint"),
        (image(generator, 3), squares(generator, 4)),
    )


CASES = {
    "draem": draem_step,
    "easynet": easynet_step,
    "dsr3d_pretraining": dsr3d_pretraining,
    "dsr3d": dsr3d_step,
    "dsr": dsr_step,
    "dsr_refining": dsr_refining,
}


# --- The step -------------------------------------------------------------------------


def thinned(tree):
    """Returns some numbers of each leaf, leaf by leaf in the order of their names."""
    leaves = trees.by_name(tree)
    flat = [np.ravel(leaves[name]) for name in sorted(leaves)]
    return np.concatenate([x[:: -(-x.size // KEPT)] for x in flat])


def first_step(case):
    """Returns (losses, gradient, change of the weights, what is averaged after it)."""
    state = case.state
    phase = case.system.phases[case.phase]._replace(steps=10, epochs=None)
    step, rows = train_step(phase), batch(case.side)
    run = widened(lambda carry, _: step(KEY, fixed_part(state), carry, rows, ALONE))
    with jax.enable_x64(True):
        carry, report = run(begin(phase, state), None)
    (optimizer,) = carry.optimizers
    # Adam's mean of gradients is a tenth of the first one.
    gradient = jax.tree.map(lambda x: 10 * x, optax.tree.get(optimizer, "mu"))
    before = {name: state.params[name] for name in gradient}
    after = {name: carry.params[name] for name in gradient}
    change = jax.tree.map(lambda x, y: y - np.float64(x), before, after)
    return report.values, gradient, change, carry.extra


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_step_is_that_of_the_public_code(name, monkeypatch, parity):
    case = CASES[name]()
    monkeypatch.setattr(*case.maker, lambda *_: case.made)
    values, gradient, change, extra = first_step(case)
    found = {
        "losses": np.array([values[term] for term in case.terms]),
        "gradient": thinned(gradient),
        "change": thinned(change),
    }
    # Adam's 1 - 0.999 is 7e-6 off in float32.
    limits = {"gradient": case.gradient_limit, "change": 1e-5}
    if case.averaged:
        found["averages"] = thinned(extra[case.averaged])
    with np.load(GOLDEN) as golden:
        expected = {part: golden[f"{name}_{part}"] for part in found}
    # Adam divides by the gradient's size, and so magnifies the rounding of a small one.
    size = np.abs(expected["gradient"])
    told = size > 1e-3 * size.max()
    for part in found:
        value, wanted = found[part], expected[part]
        if part == "change":
            value, wanted = value[told], wanted[told]
        limit = limits.get(part, 1e-6) * np.abs(wanted).max()
        np.testing.assert_allclose(value, wanted, rtol=0, atol=limit)
        said = {"change": "change by Adam", "averages": "running averages"}.get(
            part, part
        )
        parity(*case.source, f"{case.label} in float64, {said}", value, wanted)
