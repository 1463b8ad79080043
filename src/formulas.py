"""What each operation of a trace costs: model FLOPs, other FLOPs and layer type, by the operation's name.

Model FLOPs are those of matrix products, convolutions and attention, with the formulas of `torch.utils.flop_counter`
(one multiply-accumulate is 2 FLOPs), and two corrections, each tested against a sum by hand:

* The weight gradient of a grouped convolution costs as much as its forward pass; torch's formula multiplies it by the
  number of groups.
* The backward pass of fused attention is four products. The kernel's fifth, which recomputes the scores rather than
  keep them, is not the model's work.

Other FLOPs (element-wise, normalisation, pooling, biases) are nominal: so many per element, each comparison, division
or transcendental function counting one. They are reported apart and never added to model FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

ModelFlop = Callable[[tuple, object], int]
OtherFlop = Callable[[tuple, object], int]


@dataclass(frozen=True)
class Formula:
    """An operation's formulas, each from its arguments and result; ``layer_type`` is None where the context tells."""

    layer_type: str | None
    model: ModelFlop | None = None
    other: OtherFlop | None = None


def _first(value: object) -> Tensor | None:
    """The first tensor of a result."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Sequence):
        return next((item for item in value if isinstance(item, Tensor)), None)
    return None


def _count(value: object) -> int:
    tensor = _first(value)
    return 0 if tensor is None else tensor.numel()


def _per_output(flop: int) -> OtherFlop:
    return lambda args, out: flop * _count(out)


def _per_input(flop: int) -> OtherFlop:
    return lambda args, out: flop * _count(args)


def _nothing(args: tuple, out: object) -> int:
    return 0


def _mm(args: tuple, out: object) -> int:
    return 2 * args[0].shape[0] * args[0].shape[1] * args[1].shape[1]


def _addmm(args: tuple, out: object) -> int:
    return _mm(args[1:], out)


def _bmm(args: tuple, out: object) -> int:
    return args[0].shape[0] * 2 * args[0].shape[1] * args[0].shape[2] * args[1].shape[2]


def _baddbmm(args: tuple, out: object) -> int:
    return _bmm(args[1:], out)


def _bias(position: int) -> OtherFlop:
    return lambda args, out: _count(out) if args[position] is not None else 0


def convolution_flop(x: Sequence[int], weight: Sequence[int], out: Sequence[int], transposed: bool) -> int:
    """Model FLOPs of a convolution: 2 per weight and position, from the shapes of input, weight and output.

    Each weight is used once per image at every output position, or input position if transposed; the second dimension
    of ``weight`` is already divided by the number of groups.
    """
    positions = prod((x if transposed else out)[2:])
    return 2 * x[0] * positions * prod(weight)


def _convolution(args: tuple, out: object) -> int:
    return convolution_flop(args[0].shape, args[1].shape, _first(out).shape, args[6])


def _convolution_backward(args: tuple, out: object) -> int:
    grad_output, x, weight, mask = args[0], args[1], args[2], args[-1]
    # Input gradient and weight gradient each pair every weight with every position, as the forward pass does.
    return (mask[0] + mask[1]) * convolution_flop(x.shape, weight.shape, grad_output.shape, args[7])


def _convolution_backward_bias(args: tuple, out: object) -> int:
    return args[0].numel() if args[-1][2] else 0


def _attention(args: tuple, out: object) -> int:
    return sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape)


def _attention_backward(args: tuple, out: object) -> int:
    return 2 * sdpa_flop_count(args[1].shape, args[2].shape, args[3].shape)


def _scores(args: tuple) -> int:
    return prod(args[0].shape[:-1]) * args[1].shape[-2]


def _window(args: tuple, out: object) -> int:
    return prod(_pair(args[1])) * _count(out)


def _pair(size: object) -> tuple[int, ...]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return sizes * 2 if len(sizes) == 1 else sizes


def _batch_norm(args: tuple, out: object) -> int:
    # Inference folds the statistics into one scale and shift per channel. Training also sums (1) and sums the squared
    # deviations (3).
    return (6 if args[5] else 2) * _count(out)


def _table() -> dict[str, Formula]:
    table: dict[str, Formula] = {
        "mm": Formula("linear", _mm),
        "addmm": Formula("linear", _addmm, _bias(0)),
        "bmm": Formula(None, _bmm),
        "baddbmm": Formula(None, _baddbmm, _bias(0)),
        "convolution": Formula(None, _convolution, _bias(2)),
        "convolution_backward": Formula(None, _convolution_backward, _convolution_backward_bias),
    }
    for kernel in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu"):
        # Per score: scale, subtract the maximum, exponential, sum, divide, and the search for the maximum.
        forward = Formula("attention", _attention, lambda args, out: 6 * _scores(args))
        backward = Formula("attention", _attention_backward, lambda args, out: 6 * _scores(args[1:]))
        table[f"_scaled_dot_product_{kernel}"] = forward
        table[f"_scaled_dot_product_{kernel}_backward"] = backward

    def add(layer_type: str, rule: Callable[[int], OtherFlop], **flop: int) -> None:
        table.update({name: Formula(layer_type, None, rule(per_element)) for name, per_element in flop.items()})

    add("normalisation", _per_output, native_layer_norm=8, native_group_norm=8, rms_norm=5, linalg_vector_norm=2)
    for name in ("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update"):
        table[name] = Formula("normalisation", None, _batch_norm)
    table["_native_batch_norm_legit_no_training"] = Formula("normalisation", None, _per_output(2))
    table["_batch_norm_no_update"] = Formula("normalisation", None, _per_output(2))
    # Two sums over the elements (4), then subtract, scale, subtract, scale for each input gradient (5).
    backward = {f"{name}_backward": 9 for name in ("native_batch_norm", "native_layer_norm", "native_group_norm")}
    add("normalisation", _per_input, **backward, cudnn_batch_norm_backward=9, batch_norm_backward=9)

    add("activation", _per_output, relu=1, hardtanh=2, hardsigmoid=4, hardswish=5, sigmoid=4, silu=5, gelu=9, tanh=1)
    add("activation", _per_output, leaky_relu=2, elu=4, softplus=3, mish=5, threshold_backward=1, hardtanh_backward=2)
    add("activation", _per_output, hardsigmoid_backward=3, hardswish_backward=5, sigmoid_backward=3, silu_backward=8)
    add("activation", _per_output, gelu_backward=14, tanh_backward=3, leaky_relu_backward=2, elu_backward=4)
    add("attention", _per_output, _softmax=5, _safe_softmax=5, _softmax_backward_data=4)
    add("other", _per_output, _log_softmax=5, _log_softmax_backward_data=4, nll_loss_forward=2, nll_loss_backward=1)
    add("other", _per_output, nll_loss2d_forward=2, nll_loss2d_backward=1)

    table |= {name: Formula("pooling", None, _window) for name in ("avg_pool2d", "max_pool2d_with_indices")}
    add("pooling", _per_input, _adaptive_avg_pool2d=1, adaptive_max_pool2d=1, mean=1)
    add("pooling", _per_input, max_pool2d_with_indices_backward=1, _adaptive_avg_pool2d_backward=1)
    add("pooling", _per_output, avg_pool2d_backward=1)

    add("element-wise", _per_output, add=1, sub=1, rsub=1, mul=1, div=1, neg=1, pow=1, sqrt=1, rsqrt=1, exp=1, log=1)
    add("element-wise", _per_output, clamp=2, clamp_min=1, clamp_max=1, maximum=1, minimum=1, where=1, reciprocal=1)
    add("element-wise", _per_output, addcmul=2, addcdiv=2, lerp=3, abs=1, remainder=1, floor_divide=1, bitwise_not=1)
    add("element-wise", _per_output, eq=1, ne=1, lt=1, le=1, gt=1, ge=1, masked_fill=1, native_dropout=2)
    add("element-wise", _per_output, native_dropout_backward=2, bernoulli=1, erf=1, sin=1, cos=1, logical_not=1)
    add("element-wise", _per_input, sum=1, amax=1, amin=1, norm=2, cumsum=1, var=4, std=4)

    moves = (
        "cat stack clone copy _to_copy constant_pad_nd roll index index_select gather embedding repeat flip fill zero "
        "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full arange scalar_tensor "
        "pixel_shuffle pixel_unshuffle channel_shuffle _unsafe_index im2col uniform normal"
    )
    moves_backward = "select_backward slice_backward tril triu _pad_circular reflection_pad2d replication_pad2d"
    for name in f"{moves} {moves_backward}".split():
        table[name] = Formula("data movement", None, _nothing)
    # Each element of the incoming gradient is added to a row of the table's gradient.
    add("data movement", _per_input, embedding_dense_backward=1, index_put=1, _unsafe_index_put=1, scatter_add=1)
    return table


TABLE = _table()
"""Formulas by name of the operation in ``aten``, without the underscore that marks one that works in place."""


def find(packet: object, name: str) -> Formula | None:
    """The formula of an operation, from the table or from torch's own registry, or None if neither has one.

    ``packet`` is the operation's overload packet, ``name`` its name without namespace.
    """
    formula = TABLE.get(name) or TABLE.get(name.rstrip("_"))
    if formula is None and packet in flop_registry:
        count = flop_registry[packet]
        formula = Formula("other", lambda args, out: count(*args, out_val=out))
    return formula


def convolution_type(weight: Sequence[int], groups: int, transposed: bool) -> str:
    """Layer type of a convolution, from its weight's shape (output channels, input channels per group, kernel)."""
    per_group = weight[1]
    if groups > 1 and per_group == 1 and (weight[0] == groups if transposed else weight[0] % groups == 0):
        return "depthwise convolution"
    if groups == 1 and prod(weight[2:]) == 1:
        return "pointwise convolution"
    return "convolution"
