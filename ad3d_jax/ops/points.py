"""Neighbourhoods and normals of organised point clouds.

A cloud [H,W,3] is cut into tiles of 8 x 8 pixels; the candidates for the neighbours of
a tile's points are all the points of the tile and of a border around it, its halo. All
pairs of a tile with its halo are few, so distances, masks and sums are dense small
arrays, without sorting, gathers or an array of all pairs of the cloud.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

TILE = 8
FAR = 1e4  # metres; where missing points are put, out of every radius
BISECTIONS = 20  # leave a relative error of 4e-5 in a squared distance
TILES_AT_A_TIME = 1024  # on accelerators; a tile takes about 1 MB


def normals(
    xyz: jax.Array,
    valid: jax.Array,
    neighbours: int = 30,
    radius: float = 0.10,
    reach: int = 6,
) -> jax.Array:
    """Returns unit normals [B,H,W,3] float32, 0 where invalid.

    Args:
        xyz: [B,H,W,3] float32, metres.
        valid: [B,H,W,1] bool, which points are measured.
        neighbours: nearest points that span the normal, the point itself included.
        radius: metres, beyond which no point is a neighbour.
        reach: pixels around a tile within which neighbours are searched.

    A normal is the direction of least variance. Its sign is arbitrary but reproducible
    and not oriented: see `least_axis`. (0,0,1) where there are fewer than 3 neighbours.

    Source: Open3D, PointCloud.estimate_normals with KDTreeSearchParamHybrid. Ours
    differs: points further away than `reach` pixels are missed (where the sensor left
    many gaps); equal distances at the last place all count; float32.
    """

    def moments(own, others):
        steps = differences(own, others)
        squared = sum_of_squares(steps)
        limit = nearest_limit(squared, neighbours, radius)
        near = squared <= limit[None]
        products = [a * b for i, a in enumerate(steps) for b in steps[i:]]
        terms = [jnp.ones_like(squared), *steps, *products]
        return jnp.stack([jnp.sum(jnp.where(near, t, 0.0), 0) for t in terms])

    cloud = away(xyz, valid)
    sums = map_tiles(moments, cloud, cloud, reach)
    count = jnp.maximum(sums[..., :1], 1.0)
    mean, square = jnp.split(sums[..., 1:] / count, [3], axis=-1)
    first, second = np.triu_indices(3)
    covariance = square - mean[..., first] * mean[..., second]
    normal = jnp.where(
        count < 3, jnp.eye(3)[2][None, None, None], least_axis(covariance)
    )
    return jnp.where(valid, normal, 0.0)


def least_axis(covariance: jax.Array) -> jax.Array:
    """Returns unit eigenvectors [...,3] of the smallest eigenvalues.

    Args:
        covariance: [...,6] float32, the entries xx, xy, xz, yy, yz, zz.

    Where all eigenvalues are equal the result is (0,0,1), where only the two smaller
    are, as of points on a line, a vector across the largest axis. The sign is Open3D's,
    which follows from the order of its cross products: where the two larger eigenvalues
    lie closer to each other than to the smallest, the component of largest magnitude is
    positive (x, z) or negative (y); elsewhere it follows from the largest axis.

    Source: Eberly, "A Robust Eigensolver for 3x3 Symmetric Matrices" (2014), as in
    Open3D's fast normals; the plane orthogonal to the largest axis is solved directly.
    """
    scale = jnp.max(jnp.abs(covariance), axis=-1, keepdims=True)
    xx, xy, xz, yy, yz, zz = jnp.unstack(
        covariance / jnp.where(scale > 0, scale, 1.0), axis=-1
    )
    mean = (xx + yy + zz) / 3
    a, b, c = xx - mean, yy - mean, zz - mean
    spread = jnp.sqrt((a * a + b * b + c * c + 2 * (xy * xy + xz * xz + yz * yz)) / 6)
    cube = jnp.where(spread > 0, spread**3, 1.0)
    half = a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)
    half = jnp.clip(half / cube / 2, -1.0, 1.0)
    angle = jnp.arccos(half) / 3
    long = half >= 0  # the largest eigenvalue is the one that stands apart
    turned = jnp.where(long, angle, angle + 2 * np.pi / 3)
    value = mean + 2 * spread * jnp.cos(turned)
    apart = _null_vector(xx - value, xy, xz, yy - value, yz, zz - value)

    x, y, z = jnp.unstack(apart, axis=-1)
    zero = jnp.zeros_like(x)
    by_x = jnp.stack([-z, zero, x], -1)
    by_y = jnp.stack([zero, z, -y], -1)
    u = _unit(jnp.where((jnp.abs(x) > jnp.abs(y))[..., None], by_x, by_y))
    v = jnp.cross(apart, u)

    def form(p, q):
        (px, py, pz), (qx, qy, qz) = jnp.unstack(p, axis=-1), jnp.unstack(q, axis=-1)
        mixed = xy * (px * qy + py * qx) + xz * (px * qz + pz * qx)
        return (
            xx * px * qx
            + yy * py * qy
            + zz * pz * qz
            + mixed
            + yz * (py * qz + pz * qy)
        )

    uu, uv, vv = form(u, u), form(u, v), form(v, v)
    middle = (uu - vv) / 2
    root = jnp.sqrt(middle * middle + uv * uv)
    along_u = jnp.where(middle > 0, -uv, root - middle)
    along_v = jnp.where(middle > 0, root + middle, -uv)
    larger = jnp.where(jnp.abs(along_u) >= jnp.abs(along_v), along_u, along_v)
    sign = jnp.where(larger > 0, -1.0, 1.0)[..., None]
    across = sign * (along_u[..., None] * u + along_v[..., None] * v)
    equal = jnp.sum(across * across, -1, keepdims=True) == 0  # the smaller eigenvalues
    across = jnp.where(equal, u, _unit(across))
    axis = jnp.where(long[..., None], across, apart)
    defined = jnp.sum(axis * axis, -1, keepdims=True) > 0.5
    return jnp.where(defined, axis, jnp.broadcast_to(jnp.eye(3)[2], axis.shape))


def _null_vector(xx, xy, xz, yy, yz, zz):
    """Returns the unit vector orthogonal to the rows of a matrix of rank 2."""
    rows = [jnp.stack(r, -1) for r in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    best = jnp.cross(rows[0], rows[1])
    for i, j in ((0, 2), (1, 2)):
        other = jnp.cross(rows[i], rows[j])
        longer = jnp.sum(other**2, -1) > jnp.sum(best**2, -1)
        best = jnp.where(longer[..., None], other, best)
    return _unit(best)


def _unit(x):
    square = jnp.sum(x * x, -1, keepdims=True)
    return x * jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)


def away(xyz: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns xyz with points that were not measured moved out of reach.

    Raises:
        ValueError: valid is not [B,H,W,1] of the cloud [B,H,W,3].
    """
    if xyz.ndim != 4 or xyz.shape[3] != 3:
        raise ValueError(f"xyz: expected [B,H,W,3], found {xyz.shape}")
    if valid.shape != (*xyz.shape[:3], 1):
        expected = (*xyz.shape[:3], 1)
        raise ValueError(f"valid: expected {expected}, found {valid.shape}")
    return jnp.where(valid, xyz, FAR)


def differences(own: jax.Array, others: jax.Array) -> list[jax.Array]:
    """Returns x, y and z of others - own, each [M,Q]; channels 0 to 2 are metres."""
    return [others[i, :, None] - own[i, None, :] for i in range(3)]


def sum_of_squares(parts: list[jax.Array]) -> jax.Array:
    """Returns the sum of the squares of equally shaped arrays."""
    return sum(part * part for part in parts)


def nearest_limit(squared: jax.Array, count: int, radius: float) -> jax.Array:
    """Returns the squared distance that the `count` nearest do not exceed, [Q] float32.

    Args:
        squared: [M,Q] float32, squared distances of M candidates from Q points.
        count: how many are wanted; more only where distances are as good as equal.
        radius: the limit where fewer candidates are as close as this.

    Positive floats are ordered as their bits are, so that bisecting the integers
    narrows every scale of distance equally fast.
    """
    nearest, furthest = np.float32([(1e-6 * radius) ** 2, radius**2]).view(np.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        limit = jax.lax.bitcast_convert_type(middle, jnp.float32)
        inside = jnp.sum((squared <= limit[None]).astype(jnp.int32), 0)
        enough = inside >= count
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    points = squared.shape[1]
    bounds = jnp.full(points, nearest), jnp.full(points, furthest)
    high = jax.lax.fori_loop(0, BISECTIONS, halve, bounds)[1]
    return jax.lax.bitcast_convert_type(high, jnp.float32)


def map_tiles(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    own: jax.Array,
    others: jax.Array,
    reach: int,
) -> jax.Array:
    """Returns function(points of a tile, points of its halo) at every pixel.

    Args:
        function: ([C,Q], [D,M]) -> [E,Q] for the Q points of a tile with M candidates.
        own: [B,H,W,C] float32, what the function needs of the points themselves.
        others: [B,H,W,D] float32, what it needs of the candidates; beyond the image all
            channels are FAR.
        reach: pixels that the halo extends beyond the tile.

    Returns:
        [B,H,W,E].
    """
    batch, height, width, _ = own.shape
    rows, columns = -(-height // TILE), -(-width // TILE)

    def padded(x, ring):
        below, right = rows * TILE - height + ring, columns * TILE - width + ring
        width_of = (0, 0), (0, 0), (ring, below), (ring, right)
        return jnp.pad(x.transpose(0, 3, 1, 2), width_of, constant_values=FAR)

    def cut(x, image, row, ring):
        side = TILE + 2 * ring
        shape = 1, x.shape[1], side, x.shape[3]
        strip = jax.lax.dynamic_slice(x, (image, 0, row, 0), shape)[0]
        tiles = [strip[:, :, j * TILE :][:, :, :side] for j in range(columns)]
        return jnp.stack(tiles).reshape(columns, x.shape[1], side**2)

    def run(own, others, each, size):
        def strip(corner):
            return each((cut(own, *corner, 0), cut(others, *corner, reach)))

        corners = np.indices((batch, rows)) * np.reshape([1, TILE], (2, 1, 1))
        return jax.lax.map(strip, tuple(corners.reshape(2, -1)), batch_size=size)

    def one(pair):
        return function(*pair)

    # One tile's pairs stay in a processor's cache; accelerators want many at a time.
    result = jax.lax.platform_dependent(
        padded(own, 0),
        padded(others, reach),
        cpu=partial(run, each=partial(jax.lax.map, one), size=None),
        default=partial(run, each=jax.vmap(one), size=-(-TILES_AT_A_TIME // columns)),
    )
    result = result.reshape(batch, rows, columns, -1, TILE, TILE)
    result = result.transpose(0, 1, 4, 2, 5, 3)
    result = result.reshape(batch, rows * TILE, columns * TILE, -1)
    return result[:, :height, :width]
