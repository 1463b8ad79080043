"""What one case does: the calls that are timed, the memory they take, and what their failures mean."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from src import timing
from src.schema import Case

LEARNING_RATE = 1e-4
MOMENTUM = 0.9
"""SGD with momentum: the optimiser these image networks were published with. The rate is small so that random labels
don't drive values out of range, where arithmetic may slow down."""


def _module(case: Case, device: Any) -> tuple[Any, Any, tuple]:
    """The network, its module ready on the device, and its inputs."""
    import torch

    from src import models
    from src.precision import dtype

    network = models.get(case.model)
    torch.manual_seed(models.SEED)
    kind = dtype(case.precision)
    if not kind.is_floating_point:
        raise NotImplementedError(
            f"{case.precision} networks are not supported: weights and inputs are cast as a whole"
        )
    layout = torch.channels_last if case.memory_format == "channels_last" else torch.contiguous_format
    module = network.build().to(device=device, dtype=kind, memory_format=layout)
    inputs = batch(network, case.batch_size, device, kind)
    if case.memory_format == "channels_last":
        inputs = tuple(value.to(memory_format=layout) if value.dim() == 4 else value for value in inputs)
    return network, module, inputs


def batch(network: Any, batch_size: int, device: Any, dtype: Any) -> tuple:
    """A network's inputs on a device. On an accelerator, large ones are drawn there rather than on the host.

    The registry draws on the CPU, so that every device sees the same values; at large batches that takes longer than
    measuring. Time does not depend on the values, so that numbers are drawn on the accelerator, and whole numbers
    (tokens) repeat those of a batch of one.
    """
    import torch

    if device.type == "cpu":
        return network.inputs(batch_size, device, dtype)
    wanted, one = network.inputs(batch_size, "meta", dtype), network.inputs(1, device, dtype)
    inputs = []
    for shape, single in zip((value.shape for value in wanted), one, strict=True):
        if single.is_floating_point():
            inputs.append(torch.empty(shape, dtype=single.dtype, device=device).normal_())
        else:
            repeats = [large // small for large, small in zip(shape, single.shape, strict=True)]
            inputs.append(single.repeat(repeats))
    return tuple(inputs)


def inference_step(case: Case, device: Any) -> dict[str, Callable[[], object]]:
    """The one step of inference: forward in ``eval()``; call it under ``inference_mode``."""
    import torch

    _, module, inputs = _module(case, device)
    module.eval()
    if case.compile_mode == "compile":
        compiled = torch.compile(module)
        return {"inference": lambda: compiled(*inputs)}
    if case.compile_mode == "cuda_graph":
        return {"inference": capture(lambda: module(*inputs), torch.cuda).replay}
    return {"inference": lambda: module(*inputs)}


def capture(function: Callable[[], object], cuda: Any, warmups: int = 3) -> Any:
    """A CUDA graph of a call, captured after warming up on a side stream, as torch asks for.

    ``cuda`` is ``torch.cuda`` or what stands in for it in tests. The graph owns its output.
    """
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(warmups):
            function()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        graph.output = function()  # kept: its memory belongs to the graph
    return graph


def training_steps(case: Case, device: Any) -> dict[str, Callable[[], object]]:
    """The three steps of training, which share a state: forward with the loss, backward, and the optimiser's."""
    import torch

    network, module, inputs = _module(case, device)
    if not network.trainable:
        raise NotImplementedError(f"{case.model} has no training step")
    if case.compile_mode == "cuda_graph":
        raise NotImplementedError("training under a CUDA graph is not measured")
    module.train()
    call = torch.compile(module) if case.compile_mode == "compile" else module
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    state: dict[str, Any] = {}

    def forward() -> None:
        state["loss"] = network.loss(call(*inputs), inputs)

    def backward() -> None:
        state.pop("loss").backward()

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"forward": forward, "backward": backward, "optimizer": step}


def time_case(
    case: Case,
    plan: timing.Plan,
    record: Callable[[timing.Sample], None] = lambda sample: None,
    first_index: int = 0,
) -> tuple[timing.Sampled, dict[str, object]]:
    """Build a case's network and time it in this process; returns the samples and the memory columns of its outcome.

    See `timing.sample` for ``plan``, ``record`` and ``first_index``. Exceptions of torch pass through.
    """
    import torch

    from src.precision import settings

    gc.collect()  # what an earlier case of this process left must not count here
    if case.compile_mode == "compile":
        torch._dynamo.reset()
    _start_threads(case.device)
    memory = _MEMORY[case.device]()
    clock = timing.clock_for(case.device)
    device = torch.device(case.device)
    with ExitStack() as stack:
        stack.enter_context(settings(case.precision))
        if case.sweep == "inference":
            stack.enter_context(torch.inference_mode())
            steps = inference_step(case, device)
        else:
            steps = training_steps(case, device)
        memory.built()
        sampled = timing.sample(steps, clock, plan, record=record, first_index=first_index)
    return sampled, memory.columns()


def _start_threads(device: str) -> None:
    """Small operations that start torch's threads and load its libraries, which belong to no case's time or memory."""
    import torch
    import torch.nn.functional as F

    with torch.inference_mode():
        images = torch.ones(2, 8, 16, 16, device=device)
        convolved = F.conv2d(images, torch.ones(8, 8, 3, 3, device=device))
        F.linear(convolved.flatten(1), torch.ones(8, 8 * 14 * 14, device=device))


class ResidentMemory:
    """Growth of this process's resident memory: what a CPU case needs. Kernel counters, so nothing slows the calls."""

    def __init__(self):
        self.start_byte, self.built_byte = _resident_byte()[0], None

    def built(self) -> None:
        """Note what is resident once the network and inputs exist, and start watching for the peak."""
        self.built_byte = _resident_byte()[0]
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now

    def columns(self) -> dict[str, object]:
        """The memory columns of `schema.OUTCOMES`."""
        _, peak = _resident_byte()
        if self.start_byte is None or self.built_byte is None or peak is None:
            return {}
        return {
            "peak_memory_byte": max(0.0, peak - self.start_byte),
            "model_memory_byte": max(0.0, self.built_byte - self.start_byte),
            "memory_kind": "resident",
        }


def _resident_byte() -> tuple[float | None, float | None]:
    """Resident memory now and at its peak, in byte."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
        return peak, peak
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s*(\d+) kB", status, re.MULTILINE))
    return float(found["VmRSS"]) * 1024, float(found["VmHWM"]) * 1024


class AllocatedMemory:
    """What torch's allocator handed out on an accelerator."""

    def __init__(self, cuda: Any = None):
        if cuda is None:
            import torch.cuda as cuda
        self._cuda = cuda
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
        self.start_byte, self.built_byte = float(cuda.memory_allocated()), 0.0

    def built(self) -> None:
        self.built_byte = float(self._cuda.memory_allocated())
        self._cuda.reset_peak_memory_stats()

    def columns(self) -> dict[str, object]:
        """The memory columns of `schema.OUTCOMES`."""
        return {
            "peak_memory_byte": max(0.0, float(self._cuda.max_memory_allocated()) - self.start_byte),
            "model_memory_byte": max(0.0, self.built_byte - self.start_byte),
            "memory_kind": "allocated",
        }


class _UnknownMemory:
    def built(self) -> None:
        pass

    def columns(self) -> dict[str, object]:
        return {}


_MEMORY: dict[str, Callable[[], Any]] = {"cpu": ResidentMemory, "cuda": AllocatedMemory, "mps": _UnknownMemory}


def classify(error: BaseException) -> tuple[str, str]:
    """The status and one-line message of a case that raised. No path gets into the message."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    message = re.sub(r"(?<![\w.])/(?:[\w.\-]+/)+", "", text)[:200]
    low = str(error).lower()
    if (
        isinstance(error, MemoryError)
        or "out of memory" in low
        or "allocate memory" in low
        or "not enough memory" in low
    ):
        return "out_of_memory", message
    unsupported = (
        "not implemented",
        "not supported",
        "unsupported",
        "no kernel",
        "doesn't support",
        "does not support",
    )
    if isinstance(error, NotImplementedError) or any(phrase in low for phrase in unsupported):
        return "unsupported", message
    return "failed", message
