"""Neighbourhoods and normals of organised point clouds.

A cloud [H,W,3] is cut into tiles of 8 x 8 pixels; the candidates for the neighbours of
a tile's points are all the points of the tile and of a border around it, its halo. All
pairs of a tile with its halo are few, so distances, masks and sums are dense small
arrays, without sorting, gathers or an array of all pairs of the cloud.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

TILE = 8
FAR = 1e4  # metres; where missing points are put, out of every radius
BISECTIONS = 24  # of the 2^30 floats up to a radius: the last 6 bits stay open
PAIRED_TILES = 1024  # tiles that are worked on at a time on accelerators


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
        near = squared <= limit[:, None]
        products = [a * b for i, a in enumerate(steps) for b in steps[i:]]
        terms = [jnp.ones_like(squared), *steps, *products]
        return jnp.stack([jnp.sum(jnp.where(near, t, 0.0), 1) for t in terms], 1)

    cloud = away(xyz, valid)
    sums = map_tiles(moments, cloud, cloud, reach)
    count = jnp.maximum(sums[..., :1], 1.0)
    mean, square = jnp.split(sums[..., 1:] / count, [3], axis=-1)
    first, second = np.triu_indices(3)
    covariance = square - mean[..., first] * mean[..., second]
    normal = jnp.where(count < 3, jnp.eye(3)[2][None, None, None], least_axis(covariance))
    return jnp.where(valid, normal, 0.0)


def least_axis(covariance: jax.Array) -> jax.Array:
    """Returns unit eigenvectors [...,3] of the smallest eigenvalues.

    Args:
        covariance: [...,6] float32, the entries xx, xy, xz, yy, yz, zz.

    Where all eigenvalues are equal the result is (0,0,1). The sign is Open3D's, which
    follows from the order of its cross products: where the two larger eigenvalues lie
    closer to each other than to the smallest, the component of largest magnitude is
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
        return xx * px * qx + yy * py * qy + zz * pz * qz + mixed + yz * (py * qz + pz * qy)

    uu, uv, vv = form(u, u), form(u, v), form(v, v)
    middle = (uu - vv) / 2
    root = jnp.sqrt(middle * middle + uv * uv)
    along_u = jnp.where(middle > 0, -uv, root - middle)
    along_v = jnp.where(middle > 0, root + middle, -uv)
    larger = jnp.where(jnp.abs(along_u) >= jnp.abs(along_v), along_u, along_v)
    sign = jnp.where(larger > 0, -1.0, 1.0)[..., None]
    across = _unit(sign * (along_u[..., None] * u + along_v[..., None] * v))
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
    """Returns xyz with points that were not measured moved out of reach."""
    return jnp.where(valid, xyz, FAR)


def differences(own: jax.Array, others: jax.Array) -> list[jax.Array]:
    """Returns x, y and z of others - own, each [T,M,Q]; channels 0 to 2 are metres."""
    return [others[:, i, :, None] - own[:, i, None, :] for i in range(3)]


def sum_of_squares(parts: list[jax.Array]) -> jax.Array:
    """Returns the sum of the squares of equally shaped arrays."""
    return sum(part * part for part in parts)


def nearest_limit(squared: jax.Array, count: int, radius: float) -> jax.Array:
    """Returns the squared distance that the `count` nearest do not exceed, [T,Q].

    Args:
        squared: [T,M,Q] float32, squared distances of M candidates; 0 <= squared.
        count: how many are wanted; more only where distances are equal.
        radius: the limit where fewer candidates are as close as this.

    Positive floats are ordered as their bits are, so that bisecting the integers
    narrows every scale of distance equally fast.
    """
    shape = (squared.shape[0], squared.shape[2])
    bits = jax.lax.bitcast_convert_type(jnp.float32(radius**2), jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        limit = jax.lax.bitcast_convert_type(middle, jnp.float32)
        inside = jnp.sum((squared <= limit[:, None]).astype(jnp.int32), 1)
        enough = inside >= count
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    bounds = jnp.full(shape, -1, jnp.int32), jnp.full(shape, bits, jnp.int32)
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
        function: ([T,C,Q], [T,D,M]) -> [T,E,Q] for T tiles of Q points with M
            candidates each.
        own: [B,H,W,C] float32, what the function needs of the points themselves.
        others: [B,H,W,D] float32, what it needs of the candidates; beyond the image all
            channels are FAR.
        reach: pixels that the halo extends beyond the tile.

    Returns:
        [B,H,W,E].
    """
    batch, height, width, _ = own.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    fill = ((0, rows * TILE - height), (0, columns * TILE - width))
    own = jnp.pad(own, ((0, 0), *fill, (0, 0)), constant_values=FAR)
    ring = [(reach, reach + extra) for _, extra in fill]
    others = jnp.pad(others, ((0, 0), *ring, (0, 0)), constant_values=FAR)
    own = own.reshape(batch, rows, TILE, columns, TILE, -1)
    own = own.transpose(0, 1, 3, 5, 2, 4).reshape(batch * rows * columns, -1, TILE**2)
    side = TILE + 2 * reach
    others = jnp.stack([others[:, i * TILE :][:, :side] for i in range(rows)], 1)
    others = [others[:, :, :, j * TILE :][:, :, :, :side] for j in range(columns)]
    others = jnp.stack(others, 2).transpose(0, 1, 2, 5, 3, 4)
    others = others.reshape(batch * rows * columns, -1, side**2)

    def mapped(size):
        if own.shape[0] <= size:
            return lambda own, others: function(own, others)
        return lambda own, others: jax.lax.map(
            lambda pair: function(pair[0][None], pair[1][None])[0],
            (own, others),
            batch_size=size,
        )

    # One tile's pairs stay in a processor's cache; accelerators want many at a time.
    result = jax.lax.platform_dependent(
        own, others, cpu=mapped(1), default=mapped(PAIRED_TILES)
    )
    result = result.reshape(batch, rows, columns, -1, TILE, TILE)
    result = result.transpose(0, 1, 4, 2, 5, 3)
    result = result.reshape(batch, rows * TILE, columns * TILE, -1)
    return result[:, :height, :width]
