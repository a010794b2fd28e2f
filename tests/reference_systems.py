"""Small systems and data that exercise every part of the interface.

`restorer` trains with batch norm through sums and fold, noise and global reductions;
`critic` alternates two updates, one of them repeated, and gathers rows of all devices;
`bank` caches frozen features for two phases and its score, may have its adapter from a
file and builds a memory; `neighbours` chooses the rows of a bank that can be split, and
says what it matched; `banks` chooses the rows of two banks in one pass; `moments` adds
up means and covariances; `points` knows clouds without rows and columns. All but the
last work on any image size and know RGB and depth alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ad3d_jax.base import (
    Batch,
    Gather,
    Plan,
    Pretrained,
    Scores,
    State,
    Sum,
    System,
    Train,
    Update,
    sample_keys,
)
from ad3d_jax.ops import coreset, knn


class MemoryCheckpointer:
    """A checkpointer that keeps host trees in memory."""

    def __init__(self):
        self.trees: dict[int, dict] = {}

    def save(self, step, tree):
        """Keeps a tree."""
        assert step not in self.trees
        self.trees[step] = jax.tree.map(np.array, tree)

    def latest(self):
        """Returns the newest (step, tree)."""
        return max(self.trees.items(), default=None)


def adam(hyper, steps):
    """Returns Adam with the learning rate of the hyperparameters."""
    return optax.adam(hyper["learning_rate"])


def pixels(batch):
    """Returns colour and scaled depth of every pixel, [B,H,W,4]."""
    return jnp.concatenate([batch.rgb, 20 * (batch.depth - 0.5)], -1)


def restorer(steps: int = 120, width: int = 2) -> System:
    """Returns a linear denoising autoencoder of pixels with one batch norm."""

    def init(key, batch):
        encoder, decoder = jax.random.split(key)
        return State(
            params={
                "encoder": 0.5 * jax.random.normal(encoder, (4, width)),
                "decoder": 0.5 * jax.random.normal(decoder, (width, 4)),
                "offset": jnp.zeros(4),
            },
            extra={"mean": jnp.zeros(width), "variance": jnp.ones(width)},
            hyper={"learning_rate": jnp.array(0.01), "noise": jnp.array(0.02)},
        )

    def restore(params, x, mean, variance):
        code = x @ params["encoder"]
        spread = [1] * (code.ndim - 1) + [-1]
        code = (code - mean.reshape(spread)) * jax.lax.rsqrt(
            variance.reshape(spread) + 1e-3
        )
        return code @ params["decoder"] + params["offset"].reshape(spread)

    def loss(keys, params, state, batch, across):
        x = pixels(batch)
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        noisy = x + state.hyper["noise"] * noise
        code = noisy @ params["encoder"]
        weight = batch.weight.reshape(-1, 1, 1, 1)
        places = code.shape[1] * code.shape[2]
        count = places * jnp.sum(batch.weight)
        real = jnp.maximum(across.sum(count), 1)
        total = jnp.sum(weight * code, (0, 1, 2))
        mean = across.sum(total) / real
        centred = jnp.sum(weight * (code - mean.reshape(1, 1, 1, -1)) ** 2, (0, 1, 2))
        sums = {"count": count, "mean": total, "variance": centred}
        restored = restore(params, noisy, mean, across.sum(centred) / real)
        error = jnp.mean((restored - x) ** 2, (1, 2, 3))
        return error, sums, {"peak": jnp.max(jnp.abs(restored - x), (1, 2, 3))}

    def fold(extra, sums):
        count = jnp.maximum(sums["count"], 1)
        return {
            name: 0.9 * old
            + 0.1 * jnp.where(sums["count"] > 0, sums[name] / count, old)
            for name, old in extra.items()
        }

    def score(key, state, batch):
        x = pixels(batch)
        restored = restore(
            state.params, x, state.extra["mean"], state.extra["variance"]
        )
        error = jnp.mean((restored - x) ** 2, -1, keepdims=True)
        return Scores(map=error, image=jnp.max(error, (1, 2, 3)))

    return System(
        name="restorer",
        needs_fit=("rgb", "depth"),
        needs_score=("rgb", "depth"),
        init=init,
        phases=(Train("train", (Update(loss, adam),), steps, fold=fold),),
        score=score,
    )


def critic(steps: int = 60) -> System:
    """Returns a critic of pixels against fakes; stochastic at test time too."""

    def init(key, batch):
        hidden, head = jax.random.split(key)
        return State(
            params={
                "critic": {
                    "hidden": jax.random.normal(hidden, (4, 8)),
                    "bias": jnp.zeros(8),
                    "head": 0.3 * jax.random.normal(head, (8,)),
                },
                "faker": {"spread": jnp.ones(4), "shift": jnp.zeros(4)},
            },
            hyper={
                "learning_rate": jnp.array(0.02),
                "spread": jnp.array(0.5),
                "noise": jnp.array(1e-4),
            },
        )

    def judge(params, x):
        hidden = jnp.tanh(x @ params["hidden"] + params["bias"].reshape(1, 1, 1, -1))
        return hidden @ params["head"]

    def fakes(keys, params, state, x):
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        spread = params["spread"].reshape(1, 1, 1, 4) * state.hyper["spread"]
        return x + spread * noise + params["shift"].reshape(1, 1, 1, 4)

    def critic_loss(keys, params, state, batch, across):
        x = pixels(batch)
        fake = fakes(keys, params["faker"], state, x)
        real, false = judge(params["critic"], x), judge(params["critic"], fake)
        per_sample = jnp.mean(jax.nn.softplus(real) + jax.nn.softplus(-false), (1, 2))
        return per_sample, {}, {"margin": jnp.mean(false - real, (1, 2))}

    def faker_loss(keys, params, state, batch, across):
        x = pixels(batch)
        fake = fakes(keys, params["faker"], state, x)
        means, weights = (
            across.gather(jnp.mean(x, (1, 2))),
            across.gather(batch.weight),
        )
        centre = weights @ means / jnp.maximum(jnp.sum(weights), 1)
        away = jnp.mean(fake, (1, 2)) - centre.reshape(1, -1)
        spread = jnp.mean((params["faker"]["spread"] - 1) ** 2)
        return jnp.sum(away**2, 1) + 0.01 * spread, {}, {}

    def score(key, state, batch):
        x = pixels(batch)
        keys = sample_keys(key, batch)
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        logits = judge(state.params["critic"], x + state.hyper["noise"] * noise)
        return Scores(map=logits[..., None], image=jnp.max(logits, (1, 2)))

    return System(
        name="critic",
        needs_fit=("rgb", "depth"),
        needs_score=("rgb", "depth"),
        init=init,
        phases=(
            Train(
                "train",
                (
                    Update(critic_loss, adam, trainable=("critic",), repeat=2),
                    Update(faker_loss, adam, trainable=("faker",)),
                ),
                steps,
            ),
        ),
        score=score,
    )


def patches(batch, frozen):
    """Returns features of patches of 4 x 4 pixels, [B,H/4,W/4,8]."""
    x = pixels(batch)
    count, height, width, channels = x.shape
    if height % 4 or width % 4:
        raise ValueError(f"image is {height} x {width}, expected multiples of 4")
    x = x.reshape(count, height // 4, 4, width // 4, 4, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(count, height // 4, width // 4, -1)
    return x @ frozen["features"]


def enlarged(x):
    """Returns a value a patch, [B,h,w], as maps [B,4h,4w,1]."""
    return jnp.repeat(jnp.repeat(x, 4, 1), 4, 2)[..., None]


def bank(steps: int = 10) -> System:
    """Returns a nearest-neighbour bank of adapted patch features."""

    def init(key, batch):
        features, adapter = jax.random.split(key)
        return State(
            params={"adapter": jnp.eye(8) + 0.01 * jax.random.normal(adapter, (8, 8))},
            frozen={"features": 0.3 * jax.random.normal(features, (64, 8))},
            hyper={"learning_rate": jnp.array(1e-3)},
        )

    def cache(state, batch):
        return {"features": patches(batch, state.frozen)}

    def loss(keys, params, state, batch, across):
        adapted = batch.extras["features"] @ params["adapter"]
        away = jnp.mean((adapted - batch.extras["features"]) ** 2, (1, 2, 3))
        norm = jnp.sum(params["adapter"] ** 2)
        return away + 1e-3 * norm, {}, {}

    def emit(key, state, batch):
        adapted = batch.extras["features"] @ state.params["adapter"]
        return {"rows": adapted, "id": batch.id}

    def absorb(key, state, rows):
        return state._replace(
            memory={
                "bank": jnp.asarray(rows["rows"].reshape(-1, 8)),
                "id": jnp.asarray(rows["id"]),
            }
        )

    def score(key, state, batch):
        queries = batch.extras["features"] @ state.params["adapter"]
        stored = state.memory["bank"].reshape(1, 1, 1, -1, 8)
        squared = jnp.sum((queries[..., None, :] - stored) ** 2, -1)
        near = jnp.sqrt(jnp.min(squared, -1))
        whole = enlarged(near)
        return Scores(map=whole, image=jnp.max(near, (1, 2)), parts={"near": whole})

    adapter = Pretrained(
        "adapter",
        get=lambda state: state.params,
        put=lambda state, tree: state._replace(params=tree),
        read=lambda file, like: dict(np.load(file)),
    )
    return System(
        name="bank",
        needs_fit=("rgb", "depth"),
        needs_score=("rgb", "depth"),
        init=init,
        phases=(
            Train("adapt", (Update(loss, adam),), steps, pretrained="adapter"),
            Gather("bank", emit, absorb),
        ),
        score=score,
        pretrained=(adapter,),
        cache=cache,
    )


def neighbours(fraction: float = 0.5, chunk_bytes: int = 2**12) -> System:
    """Returns a bank of the farthest patch features, which may be split by rows."""

    def init(key, batch):
        return State(
            frozen={"features": 0.3 * jax.random.normal(key, (64, 8))},
            memory={
                "bank": knn.empty(8, chunk_bytes),
                "origin": np.zeros(0, np.int32),
            },
        )

    def emit(key, state, batch):
        return {"rows": patches(batch, state.frozen).reshape(len(batch.id), -1, 8)}

    def plan(state, shapes):
        samples, places, dimensions = shapes["rows"].shape
        rows = samples * places
        kept = coreset.coreset_size(rows, fraction)
        return Plan(
            rows=rows,
            kept=kept,
            dimensions=dimensions,
            bank_bytes=4 * kept * dimensions,
            split_bytes=4 * rows * (dimensions + 3),
            whole_bytes=8 * rows + chunk_bytes,
            host_bytes=3 * 4 * rows * dimensions,
            chunk=knn.chunk_rows(4 * places, rows, dimensions, chunk_bytes),
        )

    def absorb(key, state, rows):
        kept, origin = rows["rows"]
        bank = knn.build(kept, chunk_bytes)
        return state._replace(memory={"bank": bank, "origin": origin})

    def score(key, state, batch):
        queries = patches(batch, state.frozen)
        count, height, width, dimensions = queries.shape
        found = knn.nearest(state.memory["bank"], queries.reshape(-1, dimensions))
        distance, number = (x.reshape(count, height * width) for x in found)
        worst = jnp.argmax(distance, axis=1)
        matched = jax.vmap(lambda x, place: x[place])(number, worst)
        origin = jnp.asarray(state.memory["origin"])[matched]
        sample, place = jnp.divmod(origin, height * width)

        def centre(place):
            return 4 * (place // width) + 2, 4 * (place % width) + 2

        match = (*centre(worst), sample, *centre(place))
        return Scores(
            map=enlarged(distance.reshape(count, height, width)),
            image=jnp.max(distance, axis=1),
            match=jnp.stack(match, axis=1).astype(jnp.int32),
        )

    choice = coreset.greedy(fraction, start="random")
    return System(
        name="neighbours",
        needs_fit=("rgb", "depth"),
        needs_score=("rgb", "depth"),
        init=init,
        phases=(Gather("bank", emit, absorb, select={"rows": choice}, plan=plan),),
        score=score,
        sharded=("bank",),
    )


def banks(fractions: tuple[float, float] = (0.5, 0.25)) -> System:
    """Returns two banks, of colours and of depths, chosen in one pass."""

    def init(key, batch):
        return State(memory={"colour": knn.empty(3), "depth": knn.empty(1)})

    def emit(key, state, batch):
        return {
            "colour": batch.rgb.reshape(len(batch.id), -1, 3),
            "depth": 20 * batch.depth.reshape(len(batch.id), -1, 1),
            "id": batch.id,
        }

    def absorb(key, state, rows):
        built = {name: knn.build(rows[name].rows) for name in ("colour", "depth")}
        return state._replace(memory={**built, "id": rows["id"]})

    def score(key, state, batch):
        rows = emit(key, state, batch)
        nearest = [
            knn.nearest(state.memory[name], rows[name].reshape(-1, size)).distance
            for name, size in (("colour", 3), ("depth", 1))
        ]
        distance = sum(nearest).reshape(batch.depth.shape)
        return Scores(distance, jnp.max(distance, (1, 2, 3)))

    colour, depth = (coreset.greedy(fraction, "random") for fraction in fractions)
    return System(
        name="banks",
        needs_fit=("rgb", "depth"),
        needs_score=("rgb", "depth"),
        init=init,
        phases=(
            Gather("banks", emit, absorb, select={"colour": colour, "depth": depth}),
        ),
        score=score,
        sharded=("colour", "depth"),
    )


def moments(weigh=None) -> System:
    """Returns a Gaussian of all pixels; its map is the Mahalanobis distance.

    `weigh` is of both phases, the mean's and that of the covariance around it.
    """

    def init(key, batch):
        return State(memory={"mean": jnp.zeros(4), "covariance": jnp.eye(4)})

    def emit_mean(key, state, batch):
        total = jnp.einsum("b,bhwc->c", batch.weight, batch.extras["pixels"])
        places = batch.depth.shape[1] * batch.depth.shape[2]
        return {"count": places * jnp.sum(batch.weight), "total": total}

    def finish_mean(key, state, sums):
        mean = np.float32(sums["total"] / sums["count"])
        return state._replace(memory={**state.memory, "mean": mean})

    def centred(state, batch):
        return batch.extras["pixels"] - state.memory["mean"].reshape(1, 1, 1, 4)

    def emit_covariance(key, state, batch):
        away = centred(state, batch)
        total = jnp.einsum("b,bhwc,bhwd->cd", batch.weight, away, away)
        places = batch.depth.shape[1] * batch.depth.shape[2]
        return {"count": places * jnp.sum(batch.weight), "total": total}

    def finish_covariance(key, state, sums):
        covariance = np.float32(sums["total"] / sums["count"])
        return state._replace(memory={**state.memory, "covariance": covariance})

    def score(key, state, batch):
        away = centred(state, batch)
        inverse = jnp.linalg.inv(state.memory["covariance"])
        map = jnp.einsum("bhwc,cd,bhwd->bhw", away, inverse, away)[..., None]
        return Scores(map, jnp.max(map, (1, 2, 3)))

    return System(
        name="moments",
        needs_fit=("rgb", "depth"),
        needs_score=("rgb", "depth"),
        init=init,
        phases=(
            Sum("mean", emit_mean, finish_mean, weigh=weigh),
            Sum("covariance", emit_covariance, finish_covariance, weigh=weigh),
        ),
        score=score,
        cache=lambda state, batch: {"pixels": pixels(batch)},
    )


def make_cloud(count: int, points: int = 60, seed: int = 0, defect: bool = False):
    """Returns host samples of a bent sheet as clouds [count,points,1,3].

    A tenth of the points is unmeasured; of a defect every sixth point lies off the
    sheet.
    """
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-1, 1, (count, points, 1, 3))
    xyz[..., 2] = 3 + 0.1 * xyz[..., 0] ** 2
    mask = np.zeros((count, points, 1, 1), bool)
    if defect:
        mask[:, ::6] = True
        xyz[..., 2:] += np.where(mask, 0.5, 0)
    valid = np.ones((count, points, 1, 1), bool)
    valid[:, 5::10] = False
    return Batch(
        xyz=np.where(valid, xyz, 0).astype(np.float32),
        valid=valid,
        weight=np.ones(count, np.float32),
        id=rng.choice(2**31 - 1, count, replace=False).astype(np.int32),
        category=np.zeros(count, np.int32),
        mask=mask & valid,
        label=np.full(count, int(defect), np.int32),
    )


def points() -> System:
    """Returns the distance of each point to the nearest one of any training sample.

    `bank` is of the measured points alone; unmeasured ones have distance 0.
    """

    def init(key, batch):
        return State(memory={"bank": knn.empty(3)})

    def emit(key, state, batch):
        xyz = jnp.where(batch.valid, batch.xyz, 0.0)
        return {"xyz": xyz, "valid": batch.valid}

    def absorb(key, state, rows):
        bank = knn.build(rows["xyz"][rows["valid"][..., 0]])
        return state._replace(memory={"bank": bank})

    def score(key, state, batch):
        found = knn.nearest(state.memory["bank"], batch.xyz.reshape(-1, 3))
        distance = found.distance.reshape(*batch.xyz.shape[:3], 1)
        map = jnp.where(batch.valid, distance, 0.0)
        measured = jnp.maximum(jnp.sum(batch.valid, (1, 2, 3), jnp.float32), 1)
        return Scores(map, jnp.sum(map, (1, 2, 3)) / measured)

    return System(
        name="points",
        needs_fit=("xyz", "valid"),
        needs_score=("xyz", "valid"),
        init=init,
        phases=(Gather("bank", emit, absorb),),
        score=score,
        sharded=("bank",),
    )
