"""A program that was written for float32, computed in float64.

Rounding then lies at 1e-16 and not at 1e-7, so that two ways to compute one thing agree
in every draw, though a ReLU or a maximum lies near its kink. The program is read from
its jaxpr: it does not matter where a system names a dtype, and the random numbers are
those of float32. Where all is known, NumPy computes what it can, and little is
compiled.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from ad3d_jax.base import Array, Tree
from ad3d_jax.devices.compilation import Compiled


def widened(function: Callable) -> Callable:
    """Returns `function` computed in float64, to be called under `jax.enable_x64`.

    Its last argument is no array: the reductions over devices. The others, and the
    result, hold float64 in place of float32.
    """

    def run(*arguments: Tree) -> Tree:
        *trees, across = arguments
        with jax.enable_x64(False):
            shapes = jax.tree.map(_narrow, trees)
            program, result = jax.make_jaxpr(
                lambda *x: function(*x, across), return_shape=True
            )(*shapes)
        with np.errstate(all="ignore"):
            found = evaluate(program, jax.tree.leaves(trees))
        return jax.tree.unflatten(jax.tree.structure(result), found)

    return run


def run_in_float64(compiled: Compiled, *arguments: Tree) -> Tree:
    """Returns on the host, in float64, what a compiled function gives in float32."""
    traced = compiled.trace(*arguments)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        leaves = jax.tree.leaves(compiled.arrange(*arguments))
        found = evaluate(traced.jaxpr, leaves)
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), found)


def evaluate(program: ClosedJaxpr | Jaxpr, arguments: Sequence[Array]) -> list[Array]:
    """Returns what a program of float32 computes of its arguments, in float64."""
    if isinstance(program, ClosedJaxpr):
        jaxpr, constants = program.jaxpr, program.consts
    else:
        jaxpr, constants = program, ()
    values = dict(zip(jaxpr.constvars, map(_wide, constants), strict=True))
    values |= zip(jaxpr.invars, map(_wide, arguments), strict=True)

    def read(x):
        if isinstance(x, Literal):  # a Python number may stand for an int32
            return _wide(np.asarray(x.val, x.aval.dtype))
        return values[x]

    for equation in jaxpr.eqns:
        found = _compute(equation, [read(x) for x in equation.invars])
        values |= zip(equation.outvars, found, strict=True)
    return [read(x) for x in jaxpr.outvars]


def _compute(equation: JaxprEqn, inputs: list[Array]) -> list[Array]:
    """Returns the results of one equation."""
    primitive, params = equation.primitive, equation.params
    name = primitive.name
    if name in CALLS:
        return evaluate(params[CALLS[name]], inputs)
    known = not any(isinstance(x, jax.core.Tracer) for x in inputs)
    if name in CONTROL:
        return CONTROL[name](params, inputs, known)
    if name == "bitcast_convert_type":  # of drawn bits, or of numbers put in order
        inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in inputs]
    else:
        params = {key: _wide_parameter(value) for key, value in params.items()}
    if name in NUMPY and all(isinstance(x, np.ndarray) for x in inputs):
        found = NUMPY[name](*inputs, **params)
        return [np.asarray(x) for x in (found if type(found) is list else [found])]
    found = primitive.bind(*inputs, **params)
    return [_wide(x) for x in (found if primitive.multiple_results else [found])]


# Primitives that do what a program of their own does, and the name of that program.
CALLS = {
    "jit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",  # the same, differentiated
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}


def _while(params: Mapping[str, Any], inputs: list[Array], known: bool) -> list[Array]:
    count, first = params["cond_nconsts"], params["body_nconsts"]
    condition, body = inputs[:count], inputs[count : count + first]
    carry = inputs[count + first :]

    def going_on(carry):
        return evaluate(params["cond_jaxpr"], [*condition, *carry])[0]

    def advance(carry):
        return evaluate(params["body_jaxpr"], [*body, *carry])

    if not known:
        return jax.lax.while_loop(going_on, advance, carry)
    while going_on(carry):
        carry = advance(carry)
    return carry


def _scan(params: Mapping[str, Any], inputs: list[Array], known: bool) -> list[Array]:
    if "ft_in" in params:  # jax 0.11 has a tree of the three
        constants, carry, rows = map(list, params["ft_in"].update(inputs).unpack())
    else:
        fixed, count = params["num_consts"], params["num_carry"]
        constants, carry = inputs[:fixed], inputs[fixed : fixed + count]
        rows = inputs[fixed + count :]
    count, length = len(carry), params["length"]

    def advance(carry, row):
        found = evaluate(params["jaxpr"], [*constants, *carry, *row])
        return found[:count], found[count:]

    if not known or not length:
        carry, stacked = jax.lax.scan(advance, carry, rows, length, params["reverse"])
        return [*carry, *stacked]
    order = range(length)[:: -1 if params["reverse"] else 1]
    found = [None] * length
    for place in order:
        carry, found[place] = advance(carry, [x[place] for x in rows])
    return [*carry, *(jnp.stack(x) for x in zip(*found, strict=True))]


def _cond(params: Mapping[str, Any], inputs: list[Array], known: bool) -> list[Array]:
    branches = params["branches"]
    if known:
        return evaluate(branches[int(inputs[0])], inputs[1:])
    functions = [lambda *x, branch=branch: evaluate(branch, x) for branch in branches]
    return jax.lax.switch(inputs[0], functions, *inputs[1:])


def _linear_solve(
    params: Mapping[str, Any], inputs: list[Array], known: bool
) -> list[Array]:
    lengths = params["const_lengths"]
    first, count = lengths.matvec + lengths.vecmat, lengths.solve
    right = inputs[sum(lengths) :]
    return evaluate(params["jaxprs"].solve, [*inputs[first : first + count], *right])


CONTROL = {
    "while": _while,
    "scan": _scan,
    "cond": _cond,
    "custom_linear_solve": _linear_solve,
}


def _broadcast(x, *, shape, broadcast_dimensions, **_):
    inner = [1] * len(shape)
    for size, place in zip(x.shape, broadcast_dimensions, strict=True):
        inner[place] = size
    return np.broadcast_to(np.reshape(x, inner), shape)


def _slice(x, *, start_indices, limit_indices, strides):
    return x[tuple(map(slice, start_indices, limit_indices, strides or [1] * x.ndim))]


def _divide(x, y, **_):
    return x / y if x.dtype == np.float64 else jax.lax.div(x, y)


def _pad(x, value, *, padding_config):
    if any(low < 0 or high < 0 or inner for low, high, inner in padding_config):
        return jax.lax.pad(x, value, padding_config)
    widths = [(low, high) for low, high, _ in padding_config]
    return np.pad(x, widths, constant_values=value)


def _convolve(
    x,
    kernel,
    *,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    batch_group_count,
    **_,
):
    numbers, spatial = dimension_numbers, tuple(range(2, x.ndim))
    x = _dilated(np.transpose(x, numbers.lhs_spec), lhs_dilation)
    kernel = _dilated(np.transpose(kernel, numbers.rhs_spec), rhs_dilation)
    x = np.pad(x, [(0, 0), (0, 0), *np.maximum(padding, 0)])
    cut = [slice(max(-low, 0), -max(-high, 0) or None) for low, high in padding]
    x = x[:, :, *cut]
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], spatial)
    windows = windows[:, :, *(slice(None, None, step) for step in window_strides)]
    groups = feature_group_count * batch_group_count
    axis = 1 if batch_group_count == 1 else 0
    parts = [
        np.tensordot(own, other, [(1, *range(x.ndim, windows.ndim)), (1, *spatial)])
        for own, other in zip(
            np.split(windows, groups, axis), np.split(kernel, groups), strict=True
        )
    ]
    found = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    return np.transpose(found, np.argsort(numbers.out_spec))


def _dilated(x, steps):
    """Returns x with zeros between the places of all axes but the first two."""
    sizes = np.multiply(steps, np.subtract(x.shape[2:], 1)) + 1
    found = np.zeros((*x.shape[:2], *sizes), x.dtype)
    found[:, :, *(slice(None, None, step) for step in steps)] = x
    return found


def _dot(x, y, *, dimension_numbers, **_):
    (left, right), (batch, other) = dimension_numbers
    x = np.moveaxis(x, (*batch, *left), range(len(batch + left)))
    y = np.moveaxis(y, (*other, *right), range(len(other + right)))
    free, shared = len(batch), len(batch + left)
    rows, columns = x.shape[shared:], y.shape[shared:]
    x = x.reshape(*x.shape[:free], math.prod(x.shape[free:shared]), math.prod(rows))
    y = y.reshape(*y.shape[:free], math.prod(y.shape[free:shared]), math.prod(columns))
    found = np.matmul(np.swapaxes(x, -1, -2), y)
    return found.reshape((*found.shape[:free], *rows, *columns))


def _reshape(x, *, new_sizes, dimensions, **_):
    if dimensions is not None:
        x = np.transpose(x, dimensions)
    return np.reshape(x, new_sizes)


def _split(x, *, sizes, axis):
    return np.split(x, np.cumsum(sizes)[:-1], axis)


def _select(which, *cases):
    if which.dtype == bool:
        return np.where(which, cases[1], cases[0])
    return np.choose(which, cases)


# Primitives that NumPy computes, operand by operand and by their parameters.
ELEMENTWISE = {
    "abs": np.abs,
    "and": np.bitwise_and,
    "floor": np.floor,
    "not": np.invert,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "rem": np.fmod,
    "add": np.add,
    "add_any": np.add,
    "copy": np.asarray,
    "cos": np.cos,
    "eq": np.equal,
    "exp": np.exp,
    "ge": np.greater_equal,
    "gt": np.greater,
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "log": np.log,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "reduce_precision": np.asarray,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": np.asarray,
    "sub": np.subtract,
    "tanh": np.tanh,
}
NUMPY = {
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolve,
    "div": _divide,
    "dot_general": _dot,
    "pad": _pad,
    "split": _split,
    "stack": lambda *x, axis: np.stack(x, axis),
    "unstack": lambda x, *, axis: list(np.moveaxis(x, axis, 0)),
    "integer_pow": lambda x, *, y: x**y if y > 0 else 1 / x**-y,
    "iota": lambda *, dtype, shape, dimension, **_: np.indices(shape, dtype)[dimension],
    "rev": lambda x, *, dimensions: np.flip(x, dimensions),
    "concatenate": lambda *x, dimension: np.concatenate(x, dimension),
    "convert_element_type": lambda x, *, new_dtype, **_: np.asarray(x, new_dtype),
    "reduce_max": lambda x, *, axes, **_: np.max(x, tuple(axes)),
    "reduce_min": lambda x, *, axes, **_: np.min(x, tuple(axes)),
    "reduce_sum": lambda x, *, axes, **_: np.sum(x, tuple(axes), x.dtype),
    "reshape": _reshape,
    "rsqrt": lambda x, **_: 1 / np.sqrt(x),
    "select_n": _select,
    "slice": _slice,
    "squeeze": lambda x, *, dimensions: np.squeeze(x, tuple(dimensions)),
    "transpose": lambda x, *, permutation: np.transpose(x, permutation),
    **{
        name: lambda *x, function=function, **_: function(*x)
        for name, function in ELEMENTWISE.items()
    },
}


def _wide(x: Any) -> Any:
    """Returns float64 in place of narrower floating-point numbers, else as it is."""
    if isinstance(x, jax.core.Tracer):
        narrow = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(jnp.float64) if narrow else x
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended):
        return x
    x = np.asarray(x)
    return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _wide_parameter(value: Any) -> Any:
    """Returns a parameter of a primitive as it is where numbers are float64.

    Dtypes are those of results, and programs those that a scatter or reduction joins
    two numbers by.
    """
    if isinstance(value, np.dtype) and jnp.issubdtype(value, jnp.floating):
        return np.dtype(np.float64)
    if isinstance(value, Jaxpr | ClosedJaxpr):
        closed = isinstance(value, ClosedJaxpr)
        inputs = (value.jaxpr if closed else value).invars
        shapes = [
            jax.ShapeDtypeStruct(x.aval.shape, _wide_parameter(x.aval.dtype))
            for x in inputs
        ]
        made = jax.make_jaxpr(lambda *x: evaluate(value, x))(*shapes)
        return made if closed else made.jaxpr
    return value


def _narrow(x: Array) -> jax.ShapeDtypeStruct:
    dtype = np.float32 if x.dtype == np.float64 else x.dtype
    return jax.ShapeDtypeStruct(np.shape(x), dtype)
