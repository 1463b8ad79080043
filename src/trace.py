"""Record every operation of a network, forward and backward, on the meta device: nothing is allocated or computed.

A dispatch mode sees each operation below autograd, after composite functions have been decomposed, with its actual
arguments. From them come FLOPs and bytes; from the storages' birth and death, live memory; from the stack of running
modules, the layer. During the backward pass each operation runs inside an autograd node, whose sequence number is the
one that the forward operation drew when it created the node: so it belongs to that operation's module and layer type.
"""

from __future__ import annotations

import gc
import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from src import formulas


class UntraceableError(RuntimeError):
    """A network that the meta device cannot run; the message names the operation, the layer and a way out."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a trace. Views, which move nothing, are not recorded.

    ``bytes_read`` and ``bytes_written`` are the eager traffic; ``param_bytes`` is the part of ``bytes_read`` that reads
    parameters, ``param_count`` the number of parameters that no earlier operation has read. ``output_count`` is the
    number of elements in its results, ``allocated_byte`` the new storage it made for them, and ``live_byte`` all
    storage that the trace holds when it ends, without parameters, buffers and inputs. ``has_formula`` is False where
    no formula is known: its FLOPs then are 0, its bytes are not.
    """

    index: int
    name: str
    module: str
    layer_type: str
    phase: str
    flop: int
    other_flop: int
    bytes_read: int
    bytes_written: int
    param_bytes: int
    param_count: int
    output_count: int
    allocated_byte: int
    live_byte: int
    has_formula: bool
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]

    @property
    def bytes_moved(self) -> int:
        """Bytes that it reads and writes under the eager model."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """Model FLOPs per byte under the eager model."""
        return self.flop / self.bytes_moved if self.bytes_moved else 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """What one run recorded. ``read_byte`` gives, per parameter that was read, its bytes (at most its size).

    ``calls`` has every operation that ran, views included: its overload's name and its index in ``operations``, None
    for one that is not recorded. ``held_byte`` gives per phase what was alive at that phase's peak, in byte, by the
    phase and layer type of the operation that wrote it; each phase's values add up to its peak.
    """

    operations: tuple[Operation, ...]
    peak_live_byte: int
    read_byte: dict[str, int]
    input_byte: int
    output_byte: int
    calls: tuple[tuple[str, int | None], ...] = ()
    held_byte: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What is known of an operation before it runs: its name, formulas, and which arguments it writes."""

    name: str
    formula: formulas.Formula | None
    mutated: frozenset[int | str]
    write_only: bool
    functional: bool
    is_view: bool
    shortcut: Callable[[tuple], object] | None


_WRITE_ONLY = {"copy_", "fill_", "zero_", "bernoulli_", "uniform_", "normal_", "random_"}
"""In-place operations that overwrite their target without reading it."""

SHORTCUTS_ARE_USED = True
"""False makes torch derive every result; a test compares the two."""


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.float64) and tensor.is_contiguous()


def _is_row_major(tensor: Tensor) -> bool:
    """Whether the strides fall from the first dimension to the last, with or without gaps."""
    last = None
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if size != 1:
            if stride == 0 or (last is not None and stride > last):
                return False
            last = stride
    return True


def _elementwise(args: tuple) -> Tensor | None:
    """The result of element-wise work on floats of one shape: a contiguous tensor like the arguments."""
    first = args[0]
    for value in args:
        if isinstance(value, Tensor):
            alike = value.dtype == first.dtype and value.shape == first.shape and value.dim() > 0
            if not (alike and value.is_floating_point() and _is_row_major(value)):
                return None
        elif isinstance(value, complex):
            return None
    return torch.empty(first.shape, dtype=first.dtype, device=_META)


def _in_place(args: tuple) -> Tensor | None:
    """The target of element-wise work on floats of one shape, in place."""
    return None if _elementwise(args) is None else args[0]


def _batch_norm(args: tuple) -> tuple | None:
    x, training = args[0], args[5]
    if not _is_plain(x) or any(value is not None and value.dtype != x.dtype for value in args[1:5]):
        return None
    size = (x.shape[1],)
    if training and x.numel() == x.shape[1]:
        return None  # one value per channel has no variance, which torch has to say itself
    return torch.empty_like(x), *(torch.empty(size, dtype=x.dtype, device=_META) for _ in range(2))


def _batch_norm_backward(args: tuple) -> tuple | None:
    gradient, x, weight, mask = args[0], args[1], args[2], args[9]
    if not (_is_plain(gradient) and _is_plain(x)) or weight is None or weight.dtype != x.dtype or not all(mask):
        return None
    return torch.empty_like(x), *(torch.empty((x.shape[1],), dtype=x.dtype, device=_META) for _ in range(2))


_SHORTCUTS: dict[str, Callable[[tuple], object]] = {
    "aten.native_batch_norm.default": _batch_norm,
    "aten.native_batch_norm_backward.default": _batch_norm_backward,
    "aten.add_.Tensor": _in_place,
    "aten.mul_.Tensor": _in_place,
} | dict.fromkeys(
    (
        "aten.add.Tensor", "aten.mul.Tensor", "aten.sigmoid.default", "aten.sigmoid_backward.default",
        "aten.silu_backward.default", "aten.threshold_backward.default", "aten.hardswish_backward.default",
        "aten.hardsigmoid_backward.default", "aten.hardtanh_backward.default", "aten.gelu.default",
        "aten.gelu_backward.default",
    ),
    _elementwise,
)  # fmt: skip
"""Operations whose results' layout takes torch long to derive and little to know: the commonest of all networks."""

_kernels: dict[object, _Kernel] = {}


def _kernel(func) -> _Kernel:
    """The kernel behind an operator overload, looked up once."""
    known = _kernels.get(func)
    if known is None:
        packet = func.overloadpacket
        name = packet.__name__
        mutated = frozenset(
            key
            for position, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
            for key in (position, argument.name)
        )
        write_only = name in _WRITE_ONLY or any(a.is_out for a in func._schema.arguments)
        values = (*func._schema.arguments, *func._schema.returns)
        functional = all(value.alias_info is None for value in values)
        returns = [value.alias_info for value in func._schema.returns]
        is_view = bool(returns) and not mutated and all(alias is not None for alias in returns)
        formula, shortcut = formulas.find(packet, name), _SHORTCUTS.get(str(func))
        known = _Kernel(str(packet), formula, mutated, write_only, functional, is_view, shortcut)
        _kernels[func] = known
    return known


def _bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements of a tensor: an expanded dimension is read once."""
    count = tensor.numel()
    strides = tensor.stride()
    if count and 0 in strides:
        for size, stride in zip(tensor.shape, strides, strict=True):
            if stride == 0:
                count //= size
    return count * tensor.element_size()


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


_META = torch.device("meta")
_ALIASED = object()
"""The layout of a result that cannot be remade, since it shares its storage or does not fill it."""


class _UnstableError(Exception):
    """An argument on which the type of a result may depend in ways that its shape and type do not tell."""


def _signature(values: Iterable) -> tuple:
    """What of an operation's arguments its result's layout depends on; hashable."""
    parts = []
    for value in values:
        if isinstance(value, Tensor):
            if value.dim() == 0:  # may be a wrapped number, which does not promote types
                raise _UnstableError
            parts.append((value.shape, value.stride(), value.dtype))
        elif isinstance(value, (list, tuple)):
            parts.append(_signature(value))
        else:
            parts.append((type(value), value))  # 1, 1.0 and True are equal but promote differently
    return tuple(parts)


def _layout(out: object, inputs: set[int]) -> object:
    """Shape, stride and type of each tensor of a result, or `_ALIASED`."""
    if out is None:
        return None
    if isinstance(out, (list, tuple)):
        layouts = tuple(_layout(item, inputs) for item in out)
        return _ALIASED if _ALIASED in layouts else layouts
    if not isinstance(out, Tensor) or out.untyped_storage()._cdata in inputs:
        return _ALIASED
    made = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=_META)
    same = out.storage_offset() == 0 and made.untyped_storage().nbytes() == out.untyped_storage().nbytes()
    return (torch.Size, out.shape, out.stride(), out.dtype) if same and out.device == _META else _ALIASED


def _remade(layout: object) -> object:
    if layout is None:
        return None
    if layout[0] is torch.Size:
        return torch.empty_strided(layout[1], layout[2], dtype=layout[3], device=_META)
    return tuple(map(_remade, layout))


LOSS = "loss"
"""The module path of the loss, which belongs to no layer."""

_LOOKUPS = {"aten.embedding", "aten.index", "aten.index_select", "aten.gather", "aten._unsafe_index"}
"""Operations that read of their first argument only what they return."""

_FREE = {
    "aten.empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty", "aten.new_empty_strided",
    "aten.as_strided_", "aten.detach_", "aten.squeeze_", "aten.t_", "aten.transpose_", "aten.unsqueeze_",
}  # fmt: skip
"""Operations that reserve memory, or change a tensor's shape in place, and move nothing."""

_NO_FORMULA = formulas.Formula("other")

_UNWRITTEN = ("reserved", "other")
"""Writer of storage that was reserved and that nothing has written yet."""


class _Recorder(TorchDispatchMode):
    """Runs each operation and records it."""

    def __init__(self, network: nn.Module, inputs: Iterable[Tensor], phase: str):
        super().__init__()
        self.phase = phase
        self.is_meta = all(tensor.is_meta for tensor in inputs)
        self.operations: list[Operation] = []
        self.peak = 0
        self.read_byte: dict[str, int] = {}
        self.failure: tuple[str, str] | None = None
        modules = dict(network.named_modules())
        self._paths = {id(module): path for path, module in modules.items()}
        self._classes = {path: type(module) for path, module in modules.items()}
        self._stack = [""]
        self.last_module = ""
        self._layouts: dict[tuple, object] = {}
        self._live = 0
        self._storages: dict[int, weakref.ref] = {}
        self.calls: list[tuple[str, int | None]] = []
        self.held_byte: dict[str, dict[tuple[str, str], int]] = {}
        self._held: dict[tuple[str, str], int] = {}
        self._writers: dict[int, tuple[str, str]] = {}
        self._owners: dict[int, tuple[str, str]] = {}
        self._sorted_owners: list[int] = []
        self._parameters: dict[int, str] = {}
        self._variables: dict[int, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        for name, parameter in network.named_parameters():
            self._parameters[parameter.untyped_storage()._cdata] = name
            self._variables[id(parameter)] = name.rpartition(".")[0]
            self._sizes[name] = (parameter.numel(), parameter.numel() * parameter.element_size())
        buffers = [buffer for module in modules.values() for buffer in module._buffers.values() if buffer is not None]
        self._resident = {tensor.untyped_storage()._cdata for tensor in (*buffers, *inputs)} | set(self._parameters)

    def enter(self, module: nn.Module, args: object) -> None:
        self._stack.append(self._paths.get(id(module), self._stack[-1]))

    def leave(self, module: nn.Module, args: object, output: object) -> None:
        # On an error every level is left in turn; the innermost is the one that failed.
        self.last_module = self.last_module or (self._stack[-1] if sys.exc_info()[0] else "")
        self._stack.pop()

    def enter_loss(self) -> None:
        self._stack.append(LOSS)

    def start(self, phase: str) -> None:
        """Begin another phase; forward operations are from then on looked up by their nodes."""
        self.phase = phase
        self._sorted_owners = sorted(self._owners)
        self._note_peak()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kernel = _kernel(func)
        if self.is_meta and kwargs and kwargs.get("device") is not None:
            # Tensors that forward() makes follow the network to the meta device, whatever device it asks for.
            kwargs["device"] = _META
        try:
            out = self._run(func, kernel, args, kwargs or {})
        except Exception:
            if self.failure is None:
                self.failure = (kernel.name, self._stack[-1])
            raise
        before = len(self.operations)
        if kernel.is_view:
            self._own(self._stack[-1], "data movement")
        else:
            self._record(kernel, args, kwargs, out)
        self.calls.append((str(func), before if len(self.operations) > before else None))
        return out

    def _run(self, func, kernel: _Kernel, args: tuple, kwargs: dict) -> object:
        """The operation's result, remade from an earlier call with the same shapes, strides and types if there was one.

        torch derives the shapes of many results in Python, which takes a hundred times as long as making the tensors.
        """
        if not self.is_meta:
            return func(*args, **kwargs)
        if kernel.shortcut is not None and SHORTCUTS_ARE_USED:
            made = kernel.shortcut(args)
            if made is not None:
                return made
        if not kernel.functional:
            out = func(*args, **kwargs)
            return out.to(_META) if isinstance(out, Tensor) and out.device.type == "cpu" else out
        try:
            key = (func, _signature(args), _signature(tuple(kwargs.items())) if kwargs else None)
            layout = self._layouts.get(key)
        except (TypeError, _UnstableError):
            return func(*args, **kwargs)
        if layout is None:
            out = func(*args, **kwargs)
            self._layouts[key] = _layout(out, {t.untyped_storage()._cdata for t in _tensors(args)})
            return out
        return func(*args, **kwargs) if layout is _ALIASED else _remade(layout)

    def _record(self, kernel: _Kernel, args: tuple, kwargs: dict | None, out: object) -> None:
        named = [*enumerate(args), *kwargs.items()] if kwargs else [*enumerate(args)]
        given = [(key in kernel.mutated, tensor) for key, value in named for tensor in _tensors(value)]
        aliases = {tensor.untyped_storage()._cdata for _, tensor in given}
        results = [tensor for tensor in _tensors(out) if tensor.untyped_storage()._cdata not in aliases]
        allocated = sum(self._born(tensor.untyped_storage()) for tensor in results)
        if not results and not kernel.mutated:
            self._own(self._stack[-1], "data movement")
            return
        limit = sum(map(_bytes, results)) if kernel.name in _LOOKUPS else None
        read, param_bytes, param_count = self._read(given, kernel, limit)
        written = sum(_bytes(tensor) for mutated, tensor in given if mutated) + sum(map(_bytes, results))
        if kernel.name in _FREE or not read + written:
            return
        module, layer_type = self._place(kernel, args)
        formula = kernel.formula or _NO_FORMULA
        shown = results or [tensor for mutated, tensor in given if mutated]
        self._claim(shown, layer_type)
        self.operations.append(
            Operation(
                index=len(self.operations),
                name=kernel.name,
                module=module,
                layer_type=layer_type,
                phase=self.phase,
                flop=formula.model(args, out) if formula.model else 0,
                other_flop=formula.other(args, out) if formula.other else 0,
                bytes_read=read,
                bytes_written=written,
                param_bytes=param_bytes,
                param_count=param_count,
                output_count=sum(tensor.numel() for tensor in shown),
                allocated_byte=allocated,
                live_byte=self._live,
                has_formula=kernel.formula is not None,
                input_shapes=tuple(tuple(tensor.shape) for _, tensor in given),
                output_shapes=tuple(tuple(tensor.shape) for tensor in shown),
            )
        )

    def _read(self, given: list[tuple[bool, Tensor]], kernel: _Kernel, limit: int | None) -> tuple[int, int, int]:
        """Bytes read, of them parameters, and parameters read for the first time; each distinct argument once.

        ``limit`` is the most that a lookup reads of its table, the first argument.
        """
        read = param_bytes = param_count = 0
        seen: set[tuple] = set()
        for mutated, tensor in given:
            if mutated and kernel.write_only:
                continue
            storage = tensor.untyped_storage()._cdata
            identity = (storage, tensor.storage_offset(), tensor.shape, tensor.stride())
            if identity in seen:
                continue
            size = _bytes(tensor) if limit is None or seen else min(_bytes(tensor), limit)
            seen.add(identity)
            read += size
            name = self._parameters.get(storage)
            if name is not None:
                count, whole = self._sizes[name]
                param_bytes += size
                if name not in self.read_byte:
                    param_count += count
                self.read_byte[name] = min(whole, max(self.read_byte.get(name, 0), size))
        return read, param_bytes, param_count

    def _born(self, storage: torch.UntypedStorage) -> int:
        """Bytes of a storage seen for the first time, which is live from now until the last tensor on it dies."""
        key = storage._cdata
        if key in self._storages or key in self._resident:
            return 0
        size = storage.nbytes()

        def died(_: object) -> None:
            self._live -= size
            del self._storages[key]
            self._held[self._writers.pop(key)] -= size

        self._storages[key] = weakref.ref(storage, died)
        self._live += size
        self.peak = max(self.peak, self._live)
        self._writers[key] = _UNWRITTEN
        self._held[_UNWRITTEN] = self._held.get(_UNWRITTEN, 0) + size
        return size

    def _claim(self, written: Iterable[Tensor], layer_type: str) -> None:
        """Give storages that nothing had written yet to the layer type that now does."""
        writer = (self.phase, layer_type)
        for tensor in written:
            storage = tensor.untyped_storage()
            if self._writers.get(storage._cdata) == _UNWRITTEN:
                self._writers[storage._cdata] = writer
                self._held[_UNWRITTEN] -= storage.nbytes()
                self._held[writer] = self._held.get(writer, 0) + storage.nbytes()
        self._note_peak()

    def _note_peak(self) -> None:
        """Keep what is alive if the phase has not held as much before."""
        if self._live >= sum(self.held_byte.get(self.phase, {}).values()):
            self.held_byte[self.phase] = {writer: size for writer, size in self._held.items() if size}

    def _place(self, kernel: _Kernel, args: tuple) -> tuple[str, str]:
        """The module and layer type that an operation belongs to."""
        if self.phase == "backward":
            return self._place_backward(kernel)
        module = self._stack[-1]
        layer_type = kernel.formula.layer_type if kernel.formula else "other"
        if kernel.name == "aten.convolution":
            layer_type = formulas.convolution_type(args[1].shape, args[8], args[6])
        elif layer_type is None:
            # A batched product with a parameter is a linear layer; of two activations, attention.
            weights = any(tensor.untyped_storage()._cdata in self._parameters for tensor in _tensors(args))
            layer_type = "linear" if weights else "attention"
        elif kernel.name == "aten._softmax" and self._classes.get(module) is nn.Softmax:
            layer_type = "activation"
        self._own(module, layer_type)
        return module, layer_type

    def _own(self, module: str, layer_type: str) -> None:
        """Note which operation created the newest autograd node, if it is new: that node's backward belongs to it."""
        if self.phase == "forward":
            self._owners.setdefault(torch._C._autograd._get_sequence_nr() - 1, (module, layer_type))

    def _place_backward(self, kernel: _Kernel) -> tuple[str, str]:
        own_type = (kernel.formula.layer_type if kernel.formula else None) or "other"
        node = torch._C._current_autograd_node()
        if node is None or not self._owners:
            return LOSS, own_type
        if hasattr(node, "variable"):  # accumulates a parameter's gradient
            return self._variables.get(id(node.variable), ""), own_type
        module, layer_type = self._owners.get(node._sequence_nr()) or self._nearest_owner(node)
        if kernel.name in ("aten.add", "aten.add_"):
            # Autograd sums the gradients of a tensor that several operations read, under the last one's node.
            return module, "element-wise"
        if kernel.name.endswith(("_backward", "_backward_data")) and own_type not in ("other", "data movement"):
            return module, own_type
        return module, layer_type

    def _nearest_owner(self, node) -> tuple[str, str]:
        """The owner of a node during whose creation no operation ran directly."""
        nodes = self._sorted_owners
        position = bisect_right(nodes, node._sequence_nr())
        if node.name() in ("CopySlices", "AsStridedBackward0"):
            # Made after in-place work on a view, to wrap its node.
            position -= 1
        # Else an in-place operation that first saved a copy: the copy's node, next in number, is in the same layer.
        return self._owners[nodes[min(max(position, 0), len(nodes) - 1)]]


_decomposed_attention = F.scaled_dot_product_attention


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **options
) -> Tensor:
    """Scaled-dot-product attention as one operation, which is how the kernels of every device run it.

    On the meta device torch would decompose it into products and a softmax that write all scores to memory. That is
    kept only where no fused kernel applies.
    """
    if query.dim() != 4 or any(options.values()) or (attn_mask is not None and attn_mask.requires_grad):
        return _decomposed_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


@contextmanager
def _prepared(recorder: _Recorder) -> Iterator[None]:
    """Everything that must hold while the network runs; all of it is undone afterwards."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        # Tensors die by reference counts here, as they do in a real run; collections would only take time.
        if gc.isenabled():
            gc.disable()
            stack.callback(gc.enable)
        # The fast path is one opaque operation with no formula.
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        for handle in (
            module_hooks.register_module_forward_pre_hook(recorder.enter),
            module_hooks.register_module_forward_hook(recorder.leave, always_call=True),
        ):
            stack.callback(handle.remove)
        if recorder.is_meta:
            F.scaled_dot_product_attention = _fused_attention
            stack.callback(setattr, F, "scaled_dot_product_attention", _decomposed_attention)
        yield


def record(network: nn.Module, inputs: tuple[Tensor, ...], loss=None) -> Trace:
    """Run a network and record it, on meta tensors or, to see what a device runs, on real ones.

    ``network`` and ``inputs`` are on the same device. Without ``loss`` it runs in ``eval()`` without gradients, as
    inference does, so that activations die as they would there; its operations have the phase "inference". With
    ``loss(output, inputs)``, a scalar, it runs in ``train()`` forward and backward, with those two phases. Raises
    `UntraceableError` if an operation cannot run without data.
    """
    recorder = _Recorder(network, inputs, "inference" if loss is None else "forward")
    network.train(loss is not None)
    output_byte = 0
    try:
        with _prepared(recorder), torch.set_grad_enabled(loss is not None), recorder:
            output = network(*inputs)
            output_byte = sum(_bytes(tensor) for tensor in _tensors(output))
            if loss is not None:
                recorder.enter_loss()
                value = loss(output, inputs)
                del output
                recorder.start("backward")
                value.backward()
    except Exception as error:
        raise _explained(recorder, error) from error
    finally:
        if loss is not None:
            network.zero_grad(set_to_none=True)
    return Trace(
        tuple(recorder.operations),
        recorder.peak,
        dict(recorder.read_byte),
        sum(map(_bytes, inputs)),
        output_byte,
        tuple(recorder.calls),
        recorder.held_byte,
    )


def _explained(recorder: _Recorder, error: Exception) -> UntraceableError:
    operation, module = recorder.failure or ("", recorder.last_module)
    place = f"layer {module!r}" if module else "the network's own forward()"
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not operation:
        return UntraceableError(f"stopped in {place}: {type(error).__name__}: {first_line}")
    return UntraceableError(
        f"stopped at {operation} in {place}: {first_line} -- the trace has shapes but no values: replace what depends "
        "on values (item(), nonzero(), masks used as indices, branches on a tensor) by fixed sizes, keep tensors in "
        "buffers so that they follow the network's device, or register a meta kernel for a custom operation"
    )
