"""The registry of networks: how each is built, what it takes in, and its loss for training.

`MEASURED` names the book's networks. `get` also accepts any classification network of torchvision by its name, and a
reader's own as ``package.module:callable``. Weights are random and nothing is downloaded: time, counts and memory do
not depend on the values. Needs torch and torchvision alone.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SEED = 0
AUXILIARY_LOSS_WEIGHT = 0.3
"""Weight of each auxiliary head's loss: Szegedy et al., "Going deeper with convolutions", 2015, section 5."""

FAMILIES = ("convolutional", "mobile", "transformer", "language", "own")
"""Kinds of network, in the order of every legend. "mobile" are convolutional networks designed for few FLOPs."""

PREFILL_POSITIONS = 512
CACHE_POSITIONS = 512

MEASURED = (
    "alexnet", "vgg16", "googlenet", "resnet18", "resnet50", "wide_resnet50_2", "densenet121", "squeezenet1_1",
    "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0", "regnet_y_400mf",
    "convnext_tiny", "vit_b_16", "swin_t", "gpt2_prefill", "gpt2_decode",
)  # fmt: skip
"""The networks that the book counts and measures, oldest family first."""

InputFactory = Callable[[int, torch.device, torch.dtype], tuple[Tensor, ...]]


class UnknownModelError(KeyError):
    """A name that is in no registry; the message suggests the nearest names."""

    def __init__(self, name: str, reason: str | None = None):
        self.name = name
        known = {*MEASURED, *torchvision_names()}
        self.nearest = tuple(difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5))
        hint = f"did you mean {', '.join(self.nearest)}?" if self.nearest else f"the book has {', '.join(MEASURED)}"
        self.message = reason or (
            f"unknown network {name!r}: {hint} (any torchvision classification network is known by its name, "
            "and your own as package.module:callable)"
        )
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Network:
    """A network that can be built and fed.

    ``input_shape`` is the shape of one input without the batch; ``unit`` is what the batch size counts, "image" or
    "sequence"; ``trainable`` is False where a training step makes no sense (decoding with a cache), and
    ``minimum_training_batch`` the smallest batch that its batch normalisation accepts.
    """

    name: str
    family: str
    input_shape: tuple[int, ...]
    factory: Callable[[], nn.Module]
    unit: str = "image"
    trainable: bool = True
    minimum_training_batch: int = 1
    input_factory: InputFactory | None = None

    def build(self) -> nn.Module:
        """The module with random weights, in ``train()`` mode, on the current default device."""
        return self.factory()

    def build_meta(self) -> nn.Module:
        """The module on the meta device, without memory for its weights and without initialising them."""
        with _meta_registration():
            module = self.factory()
        return _on_meta(module)

    def inputs(
        self, batch_size: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, ...]:
        """The arguments of ``forward`` for a batch: the same random values each time; without data on ``meta``."""
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, not {batch_size}")
        device = torch.device(device)
        if self.input_factory is not None:
            return tuple(self.input_factory(batch_size, device, dtype))
        return (_normal((batch_size, *self.input_shape), device, dtype),)

    def loss(self, output: Tensor | tuple, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean cross-entropy of the logits, a scalar; auxiliary heads' losses are added with weight 0.3.

        ``output`` is what ``forward`` returned: logits (batch, classes, ...), or a tuple of logits whose first entry
        is the main head (GoogLeNet, Inception). Images get fixed labels; a language model's targets are its own next
        tokens. Raises TypeError on outputs that are neither.
        """
        if not self.trainable:
            raise ValueError(f"{self.name} has no training step")
        if isinstance(output, tuple):
            main, *auxiliary = (self.loss(logits, batch) for logits in output if logits is not None)
            return main + AUXILIARY_LOSS_WEIGHT * sum(auxiliary) if auxiliary else main
        if not isinstance(output, Tensor):
            raise TypeError(f"{self.name} returns {type(output).__name__}; training needs logits, or a tuple of them")
        if self.unit == "sequence":
            # Targets are rolled rather than the logits cut: cutting would copy the largest tensor of the network.
            return F.cross_entropy(output.flatten(0, 1), batch[0].roll(-1, 1).flatten())
        if output.dim() < 2:
            return output.square().mean()
        labels = torch.zeros((output.shape[0], *output.shape[2:]), dtype=torch.int64, device=output.device)
        return F.cross_entropy(output, labels)


def get(name: str) -> Network:
    """The network of that name. Raises `UnknownModelError`, whose message suggests the nearest names.

    A reader's own network is named ``package.module:callable``. The callable takes no argument and returns a module,
    or ``(module, input_shape)``, or ``(module, inputs)`` with ``inputs(batch_size, device, dtype)`` returning a tuple
    of tensors; without either, the input is an image of 3x224x224 (or the module's ``input_shape`` attribute).
    """
    if ":" in name:
        return _own(name)
    if name in ("gpt2_prefill", "gpt2_decode"):
        return _gpt2(name)
    if name not in torchvision_names():
        raise UnknownModelError(name)
    return _torchvision(name)


def measured() -> tuple[Network, ...]:
    """The book's networks, in order."""
    return tuple(get(name) for name in MEASURED)


@cache
def torchvision_names() -> tuple[str, ...]:
    """Every classification network of the installed torchvision, in alphabetical order."""
    from torchvision import models

    return tuple(sorted(models.list_models(module=models)))


def torchvision_weights(name: str):
    """torchvision's default published weights of a network, whose ``meta`` states its size and cost, or None."""
    from torchvision import models

    # vit_h_14 and regnet_y_128gf come at two sizes; DEFAULT is the one that torchvision recommends.
    return getattr(models.get_model_weights(name), "DEFAULT", None)


@cache
def _torchvision(name: str) -> Network:
    from torchvision import models

    weights = torchvision_weights(name)
    size = weights.transforms.keywords["crop_size"] if weights is not None else 224
    arguments: dict = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        # Built with their auxiliary heads, as trained; eval() leaves the heads out. Their own initialisation samples a
        # truncated normal with SciPy and takes many seconds.
        arguments |= {"aux_logits": True, "init_weights": False}
    elif name.startswith("vit_"):
        arguments["image_size"] = size
    # Inception's auxiliary head normalises a single position per image: one image has no variance.
    minimum = 2 if name == "inception_v3" else 1
    factory = partial(models.get_model, name, **arguments)
    return Network(name, _family(name), (3, size, size), factory, minimum_training_batch=minimum)


def _family(name: str) -> str:
    if name.startswith(("vit_", "swin_", "maxvit")):
        return "transformer"
    if name.startswith(("squeezenet", "mobilenet", "shufflenet", "mnasnet", "efficientnet")):
        return "mobile"
    return "convolutional"


@cache
def _gpt2(name: str) -> Network:
    from src import gpt2

    def prefill(batch_size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (_tokens((batch_size, PREFILL_POSITIONS), device, gpt2.VOCABULARY),)

    def decode(batch_size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        cache = (gpt2.LAYERS, 2, batch_size, gpt2.HEADS, CACHE_POSITIONS + 1, gpt2.HEAD_WIDTH)
        return _tokens((batch_size, 1), device, gpt2.VOCABULARY), _normal(cache, device, dtype)

    if name == "gpt2_prefill":
        return Network(name, "language", (PREFILL_POSITIONS,), gpt2.GPT2, "sequence", input_factory=prefill)
    return Network(name, "language", (1,), gpt2.GPT2, "sequence", trainable=False, input_factory=decode)


@cache
def _own(name: str) -> Network:
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        target = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownModelError(name, f"cannot load {name!r}: {error}") from error
    if not callable(target):
        raise UnknownModelError(name, f"{name!r} is a {type(target).__name__}, not a callable that returns a module")

    with _meta_registration():
        built = target()
    module, given = built if isinstance(built, tuple) else (built, None)
    if not isinstance(module, nn.Module):
        raise UnknownModelError(name, f"{name!r} returns a {type(module).__name__}, not a torch.nn.Module")

    def factory() -> nn.Module:
        again = target()
        return again[0] if isinstance(again, tuple) else again

    shape = tuple(getattr(module, "input_shape", (3, 224, 224)) if given is None or callable(given) else given)
    return Network(name, "own", shape, factory, input_factory=given if callable(given) else None)


@contextmanager
def _meta_registration() -> Iterator[None]:
    """Sends parameters and buffers to the meta device as modules register them.

    The default device stays the CPU, because some constructors compute with small tensors (RegNet's widths, Swin's
    rates). Memory that torch.empty reserved for a parameter is given back before anything is written to it; what
    `torch.nn.init` would write is left out.
    """
    register_parameter, register_buffer = nn.Module.register_parameter, nn.Module.register_buffer
    initialisers = {name: made for name, made in vars(nn.init).items() if name.endswith("_") and callable(made)}

    def parameter_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register_parameter(module, name, parameter)

    def buffer_on_meta(module: nn.Module, name: str, buffer: Tensor | None, persistent: bool = True) -> None:
        register_buffer(module, name, None if buffer is None else buffer.to("meta"), persistent)

    def left_alone(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        return tensor

    nn.Module.register_parameter, nn.Module.register_buffer = parameter_on_meta, buffer_on_meta
    vars(nn.init).update(dict.fromkeys(initialisers, left_alone))
    try:
        yield
    finally:
        nn.Module.register_parameter, nn.Module.register_buffer = register_parameter, register_buffer
        vars(nn.init).update(initialisers)


def _on_meta(module: nn.Module) -> nn.Module:
    """The module with every tensor that its parts hold on the meta device: those registered before, and attributes."""
    if any(tensor.device.type != "meta" for tensor in (*module.parameters(), *module.buffers())):
        module = copy.deepcopy(module)  # its layers are the caller's, who may want to run them
    moved: dict[int, Tensor] = {}  # a shared tensor stays shared
    for part in module.modules():
        for held in (part._parameters, part._buffers, vars(part)):
            for name, value in held.items():
                if not isinstance(value, Tensor) or value.device.type == "meta":
                    continue
                if id(value) not in moved:
                    made = value.detach().to("meta")
                    moved[id(value)] = nn.Parameter(made, value.requires_grad) if held is part._parameters else made
                held[name] = moved[id(value)]
    return module


def _normal(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type == "meta":
        return torch.empty(shape, device=device, dtype=dtype)
    # Drawn on the CPU, so that every device sees the same values.
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device, dtype)


def _tokens(shape: tuple[int, ...], device: torch.device, vocabulary: int) -> Tensor:
    if device.type == "meta":
        return torch.empty(shape, device=device, dtype=torch.int64)
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(SEED)).to(device)
