"""The functions of torch that a check observes, by name; and running a model so that they can be observed.

Three things hide functions from a mode: compiled layers, reentrant checkpoints, and composite functions. Each is
replaced temporarily, which is needed until torch has a switch for one thread.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from zeta.base.modules import modules_of
from zeta.base.process.exchange import Shared
from zeta.base.process.interrupts import undone, undone_on_error
from zeta.check.facts.evidence import Choice
from zeta.check.watch import activations
from zeta.check.watch.batches import tensors_in

#: what hands a tensor's values to Python
EXITS: Final = {
    **{name: f".{name}()" for name in ("item", "tolist", "numpy")},
    **{f"__{name}__": f"{name}()" for name in ("bool", "int", "float", "index", "complex")},
    "__array__": "numpy",
}
_OTHERS: Final = {
    "scaled_dot_product_attention": "scaled_dot_product_attention",
    "softmax": "softmax",
    "_softmax": "softmax",
    "linear": "linear",
    "addmm": "addmm",
    "bilinear": "bilinear",
    **{name: name for name in ("conv1d", "conv2d", "conv3d")},
    **{f"conv_transpose{n}d": f"conv_transpose{n}d" for n in (1, 2, 3)},
    **dict.fromkeys(("matmul", "bmm", "baddbmm", "einsum", "__matmul__"), "product"),
}
_SHAPELESS: Final = ("glu",)
_DROPOUTS: Final = (
    *("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
)


def kind_of_call(name: str) -> str | None:
    """The kind of a function, by its name: an activation, attention, a weighted sum, a loss; ``None`` for others."""
    if name in _OTHERS:
        return _OTHERS[name]
    key = name.rstrip("_")
    return key if key in activations.KNOWN and key not in _SHAPELESS and not name.startswith("_") else None


def selection(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, module: str) -> Choice | None:
    """The selection of entries that a call makes; ``None`` for other calls.

    Of ``topk``, ``argmin`` and ``min`` over the last dimension. ``argmax`` is left out: models compute accuracies.
    """
    if name not in ("topk", "argmin", "min") or not args or not isinstance(args[0], Tensor) or args[0].ndim < 2:
        return None
    at = 2 if name == "topk" else 1
    dim = kwargs.get("dim", args[at] if len(args) > at else -1 if name == "topk" else None)
    if not isinstance(dim, int) or dim not in (-1, args[0].ndim - 1) or not args[0].is_floating_point():
        return None
    indices = result if isinstance(result, Tensor) else result[1]
    chosen = indices.shape[-1] if name == "topk" or kwargs.get("keepdim") else 1
    counts = torch.bincount(indices.detach().flatten(), minlength=args[0].shape[-1]).sort(descending=True).values
    return Choice(
        module=module,
        function=name,
        rows=indices.numel() // max(1, chosen),
        entries=args[0].shape[-1],
        chosen=chosen,
        common=float(counts[:chosen].sum() / max(1, indices.numel())),
    )


def is_detach(name: str, func: Any) -> bool:
    """Whether a call detaches its tensor from the graph: ``detach``, ``detach_`` and the attribute ``data``."""
    if name == "__get__":
        return getattr(func.__self__, "__name__", "") == "data"
    return name in ("detach", "detach_")


def ends_graph(name: str, args: tuple[Any, ...], result: Any) -> bool:
    """Whether what a call takes goes on without a graph: in one of its results, in place, or as a value of Python."""
    changed = args[:1] if name == "__setitem__" else ()
    return name in EXITS or any(not tensor.requires_grad for _, tensor in tensors_in((result, changed)))


def dropout_rate(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The probability with which a call sets an element to zero; 0 if it is no active dropout."""
    if name in _DROPOUTS:
        active = kwargs.get("training", args[2] if len(args) > 2 else True)
        return float(kwargs.get("p", args[1] if len(args) > 1 else 0.5)) if active else 0.0
    if name == "scaled_dot_product_attention":
        return float(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
    return 0.0


def silenced(
    name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The call without dropout, whose noise would hide the properties of the weights."""
    if name in _DROPOUTS:
        return _first, args, kwargs
    if name == "scaled_dot_product_attention":
        if len(args) > 4 and args[4]:
            return func, (*args[:4], 0.0, *args[5:]), kwargs
        if kwargs.get("dropout_p"):
            return func, args, {**kwargs, "dropout_p": 0.0}
    return func, args, kwargs


def _first(input: Tensor, *_: Any, **__: Any) -> Tensor:  # noqa: A002
    return input


@contextlib.contextmanager
def plainly(model: nn.Module) -> Iterator[None]:
    """Run layers without compilation and without reentrant checkpoints.

    A reentrant checkpoint runs the layer under ``no_grad`` first, so that there is no graph to observe, and it does not
    support ``torch.autograd.grad``.
    """
    with _uncompiled(model), _CHECKPOINTED.held():
        outer = _HERE.plainly
        try:
            _HERE.plainly = True
            yield
        finally:
            _HERE.plainly = outer


@contextlib.contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Let compiled layers call the original code. The compiler's own switch would affect all threads."""
    plain: list[tuple[dict[str, Any], str, Any]] = []
    for module in modules_of(model):
        held = vars(module)
        if held.get("_compiled_call_impl") is not None:
            plain.append((held, "_compiled_call_impl", None))
        if "forward" in held and "_orig_mod" in module._modules:
            plain.append((held, "forward", held["_modules"]["_orig_mod"].__call__))
    compiled = [(held, name, held[name]) for held, name, _ in plain]

    def restore() -> None:
        for held, name, value in compiled:
            held[name] = value

    with undone_on_error(restore), undone(restore):
        for held, name, value in plain:
            held[name] = value
        yield


class _Here(threading.local):
    plainly = False
    checkpointed = False  #: whether a reentrant checkpoint runs whose inputs need no gradient


def in_gradless_checkpoint() -> bool:
    """Whether this thread is in a reentrant checkpoint whose inputs need no gradient, so that nothing gets one."""
    return _HERE.checkpointed


_HERE: Final = _Here()
_REENTRANT: Final[Any] = checkpoint.CheckpointFunction


@classmethod  # type: ignore[misc]
def _applied(cls: Any, function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    if _HERE.plainly:
        if any(isinstance(item, Tensor) and item.requires_grad for item in args):
            return function(*args)
        outer = _HERE.checkpointed
        try:
            _HERE.checkpointed = True
            with torch.no_grad():  # the checkpoint's outputs need a gradient only if an input does
                return function(*args)
        finally:
            _HERE.checkpointed = outer
    return super(_REENTRANT, cls).apply(function, preserve_rng_state, *args)


#: entered while any thread runs layers plainly; replaces the inherited ``apply`` of torch's reentrant checkpoint
_CHECKPOINTED: Final = Shared(
    lambda: setattr(_REENTRANT, "apply", _applied),
    lambda: delattr(_REENTRANT, "apply") if "apply" in vars(_REENTRANT) else None,
)


class Composite:
    """Functions of torch that call others which a check observes.

    A mode sees ``F.multi_head_attention_forward`` as one call and none of the calls in it, because the function passes
    itself to the mode. So a copy of it runs instead, with a ``has_torch_function`` that always returns false.
    """

    def __init__(self) -> None:
        self._twins = {function: unseen(function) for function in (F.multi_head_attention_forward,)}

    def inside(self, func: Any) -> Callable[..., Any] | None:
        """The copy of a composite function, ``None`` for other functions."""
        try:
            return self._twins.get(func)
        except TypeError:  # not hashable
            return None


def unseen(function: Any) -> Callable[..., Any]:
    """A copy of a function of torch that does not pass itself to a mode."""
    inner = {**function.__globals__, "has_torch_function": lambda *_: False}
    twin = types.FunctionType(function.__code__, inner, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


class Quiet(TorchFunctionMode):
    """A mode without dropout."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = silenced(getattr(func, "__name__", ""), func, args, kwargs or {})
        return func(*args, **kwargs)
