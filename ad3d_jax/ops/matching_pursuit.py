"""Orthogonal matching pursuit: a vector as a sum of a few of several atoms."""

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array


def matching_pursuit(atoms: Array, target: Array, count: int) -> Array:
    """Returns the coefficients of at most `count` atoms, [Q,K]; of the others 0.

    The atom whose product with the residual is largest is taken, and all taken atoms
    are fitted anew by least squares. Longer atoms are preferred: they are used as they
    are. No further atom is taken where the largest product squared is below the
    machine's epsilon, where it is that of an atom taken before, or where an atom
    depends on those before but for the square root of epsilon.

    Source: scikit-learn's `orthogonal_mp_gram`, which `sparse_encode` with the
    algorithm "omp" calls, in its order of atoms (of equal ones the first) and with its
    rules of stopping.

    Args:
        atoms: [Q,K,D] float32, the atoms of each target.
        target: [Q,D] float32.
        count: of atoms to take, at most K.

    Raises:
        ValueError: more atoms are to be taken than there are.
    """
    if count > atoms.shape[1]:
        raise ValueError(
            f"matching pursuit: expected at most {atoms.shape[1]} atoms to take, found "
            f"{count}"
        )
    precise = jax.lax.Precision.HIGHEST
    gram = jnp.einsum("qid,qjd->qij", atoms, atoms, precision=precise)
    products = jnp.einsum("qid,qd->qi", atoms, target, precision=precise)
    return jax.vmap(lambda g, p: _pursue(g, p, count))(gram, products)


def reconstruct(atoms: Array, target: Array, count: int) -> Array:
    """Returns the sums of atoms that come near the targets, [Q,D]; see above."""
    coefficients = matching_pursuit(atoms, target, count)
    precise = jax.lax.Precision.HIGHEST
    return jnp.einsum("qk,qkd->qd", coefficients, atoms, precision=precise)


def _pursue(gram: Array, products: Array, count: int) -> Array:
    """Returns the coefficients [K] of one target.

    Args:
        gram: [K,K], products of the atoms.
        products: [K], of the atoms with the target.
        count: of atoms to take.
    """
    least = jnp.finfo(gram.dtype).eps
    # Taken atoms stand first, each in exchange with the one that stood there.
    order, going = jnp.arange(len(gram)), jnp.array(True)
    coefficients, left = jnp.zeros_like(products), products
    factor: list[list[Array]] = []  # the rows of Cholesky's factor
    for taken in range(count):
        place = jnp.argmax(jnp.abs(left[order]))
        atom = order[place]
        going &= (place >= taken) & (left[atom] ** 2 >= least)
        order = order.at[place].set(order[taken]).at[taken].set(atom)
        row = _forward(factor, list(gram[atom, order[:taken]]))
        rest = gram[atom, atom] - sum(x * x for x in row)
        if taken:
            going &= rest > least
        factor.append([*row, jnp.sqrt(jnp.where(going, rest, 1.0))])
        chosen = order[: taken + 1]
        half = _forward(factor, list(products[chosen]))
        values = jnp.stack(_backward(factor, half))
        fitted = jnp.zeros_like(products).at[chosen].set(values)
        coefficients = jnp.where(going, fitted, coefficients)
        left = products - jnp.sum(gram[:, chosen] * values[None], axis=1)
    return coefficients


def _forward(factor: list[list[Array]], right: list[Array]) -> list[Array]:
    """Returns x of L x = right, L the lower triangle `factor`."""
    x: list[Array] = []
    for row, value in zip(factor, right, strict=True):
        known = sum(a * b for a, b in zip(row, x, strict=False))
        x.append((value - known) / row[len(x)])
    return x


def _backward(factor: list[list[Array]], right: list[Array]) -> list[Array]:
    """Returns x of L^T x = right."""
    x = dict[int, Array]()
    for i in reversed(range(len(right))):
        known = sum(factor[j][i] * x[j] for j in x)
        x[i] = (right[i] - known) / factor[i][i]
    return [x[i] for i in range(len(right))]
