"""Where the queries of attentions are multiplied whose heads grow in size."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from torch import nn

from zeta.fans import axes_of
from zeta.resolve.scaling.built import Built
from zeta.resolve.scaling.heads import HEAD_SIZE, HEADS, modules_around, positive
from zeta.resolve.scaling.schemes import Class, Size
from zeta.resolve.scaling.sources import multiplied_by, normalizes, packs_by_head
from zeta.resolve.scaling.trials import Sizes
from zeta.rules import Kind, Role
from zeta.rules.role_names import WRAPPED, plain

_SCALES: Final = ("scaling", "scale", "softmax_scale")
_QUERY_NORM: Final = re.compile(r"(?i)(q|query)_?(layer_?)?_?norm|(layer_?)?norm_?(q|query)|q_?ln|ln_?q")
#: what begins the names of a second stream of an attention of two, as in diffusers
_ADDED: Final = re.compile(r"(?i)(?<![a-z])add(ed)?_")
#: other names of what may be a norm of queries
_ODD_NORM: Final = re.compile(r"(?i)(^|_)(qk?|query)(?!_?a_)(_?\w*)?(norm|ln)|(norm|ln)_?(qk?|query)(_|$)")
#: roles of what an attention has, of which one module computes one
_PROJECTIONS: Final = (Role.QUERY, Role.KEY, Role.VALUE, Role.QUERY_KEY_VALUE, Role.ATTENTION_OUTPUT)


class Queries(NamedTuple):
    """Queries that are multiplied: what the module returns, or the first ``end`` elements of its last dimension.

    ``of_input``: the first input of the module instead.
    """

    module: str
    factor: float
    end: int | None = None
    parameters: tuple[str, ...] = ()
    of_input: bool = False


class Attentions:
    """The attentions of a model; ``problems`` are those whose queries are not found."""

    def __init__(
        self, sizes: Sizes, classes: Mapping[str, Size], head_dim: tuple[int, int] | None, *, absolute: bool
    ) -> None:
        self._sizes, self._target, self._classes, self._head_dim = sizes, sizes.target, classes, head_dim
        self._absolute = absolute
        self.problems: list[str] = []

    def queries(self) -> Iterator[Queries]:
        """The queries of each attention whose heads grow, times what turns 1/sqrt(d) into sqrt(d_base)/d.

        In an absolute scheme, those of all attentions, times what turns it into 1/d.
        """
        by_attention: dict[str, list[str]] = {}
        for name, group in self._target.slots.items():
            path = module_of(name, group[0].local_name)
            if self._has_queries(name, path) and group[0].kind is Kind.WEIGHT:
                by_attention.setdefault(outer(whole_layer(path)), []).append(name)
        for around, names in by_attention.items():
            found: dict[str, Queries] = {}
            for name in self._last_of(names):
                fixed = self._classes[name].group is Class.FIXED and not self._absolute
                if fixed or (factor := self._of_heads(name)) in (None, 1.0):
                    continue
                assert factor is not None
                for each in self._at_query(around, name, factor):
                    found.setdefault(each.module, each)
            yield from found.values()

    def _last_of(self, names: list[str]) -> list[str]:
        """Without a projection to a low rank that another of them begins with."""
        fans = {name: self._classes[name].target for name in names}
        begins = {each.fan_in for each in fans.values() if each is not None}
        return [
            name
            for name, each in fans.items()
            if each is None or each.fan_out >= each.fan_in or each.fan_out not in begins
        ]

    def _has_queries(self, name: str, path: str) -> bool:
        role, local = self._target.role(name), plain(whole_layer(path).rpartition(".")[2])
        only_keys = re.search("kv|key_value", local) is not None and "q" not in local.replace("mqa", "")
        return role is Role.QUERY or (role is Role.QUERY_KEY_VALUE and not only_keys)

    def _of_heads(self, name: str) -> float | None:
        """What to multiply queries by; ``None`` after noting that it does not follow."""
        sizes = self._head_dim
        source = self._sizes.source[name].name
        models = (self._sizes.base, source), (self._target, name)
        if sizes is None:
            found = [_head_size(model, each) for model, each in models]
            if None in found:
                if self._classes[name].width_out == 1 and not self._absolute:
                    return 1.0
                self.problems.append(
                    f"{name}: the size of its heads does not follow from an attribute of the attention "
                    f"({HEAD_SIZE[0]}, {HEADS[0]}, ...); give head_dim=(base, target), or attention=False if it does "
                    "not grow, or if the model divides by it"
                )
                return None
            sizes = found[0], found[1]  # type: ignore[assignment]
        assert sizes is not None
        base, target = sizes
        own = [_own_scale(model, each) for model, each in models]
        if self._absolute:
            scale = own[1] or target**-0.5
            return 1 / target / min(scale, 1 / scale)  # scores are divided by a number above 1
        if base == target:
            return 1.0
        divided = own[1] / own[0] if own[0] and own[1] else (base / target) ** 0.5
        if (divided > 1) is (target > base) and divided != 1:  # scores are divided by it
            divided = 1 / divided
        factor = base / target / divided
        return 1.0 if abs(factor - 1) < 1e-9 else factor

    def _at_query(self, around: str, name: str, factor: float) -> Iterator[Queries]:
        slot = self._target.slots[name][0]
        if isinstance(slot.module, nn.MultiheadAttention):
            if slot.module._parameters.get("in_proj_bias") is None:  # the map is linear: its input may be multiplied
                yield Queries(module=module_of(name, slot.local_name), factor=factor, of_input=True)
                return
            self.problems.append(
                f"{name}: its heads grow, and nn.MultiheadAttention divides by their square root inside of torch; give "
                "it bias=False, let the number of heads grow instead, or pass attention=False"
            )
            return
        path, end = whole_layer(module_of(name, slot.local_name)), None
        if self._does_more(path, name):
            self.problems.append(
                f"{name}: its heads grow, and no module computes the queries alone, but {type(slot.module).__name__}; "
                "put them into an nn.Linear and call it, or pass attention=False"
            )
            return
        holder = self._target.modules[around]
        added = _ADDED.search(path.rpartition(".")[2]) is not None
        norms = [child for child in holder._modules if _QUERY_NORM.fullmatch(_ADDED.sub("", child))]
        norm = next((child for child in norms if (_ADDED.search(child) is not None) is added), None)
        if norm is not None:
            path = f"{around}.{norm}" if around else norm
            yield Queries(module=path, factor=factor)
            return
        if normalizes(holder) or any(_ODD_NORM.search(child) for child in holder._modules):
            self.problems.append(
                f"{name}: its heads grow, and {type(holder).__name__} computes norms, perhaps of the queries, "
                "which undo what these are multiplied by; call a module q_norm on them, or pass attention=False"
            )
            return
        parameters = tuple(each for each in (name, bias_of(name)) if each in self._target.slots)
        if self._target.role(name) is Role.QUERY_KEY_VALUE:
            parameters = ()
            end = self._packed_queries(name)
            if end is None:
                return
        yield Queries(module=path, factor=factor, end=end, parameters=parameters)

    def _does_more(self, path: str, name: str) -> bool:
        """Whether the module at a path is not one that computes with a weight alone when it is called."""
        module = self._target.modules.get(path)
        if module is None or not is_called(module) or multiplied_by(self._target.modules, path) is not None:
            return True
        others = [each for each in self._target.slots if each.startswith(f"{path}." if path else "") and each != name]
        return any(self._target.role(each) in _PROJECTIONS and each != bias_of(name) for each in others)

    def _packed_queries(self, name: str) -> int | None:
        """How many outputs of a packed projection are queries; they come first."""
        slot, size = self._target.slots[name][0], self._classes[name]
        path = whole_layer(module_of(name, slot.local_name))
        around, _, local = path.rpartition(".")
        fans = size.target
        triple = () if fans is None else (3 * fans.fan_in, 3 * fans.fan_out)
        packed = [extent for extent in slot.shape if extent in triple]
        heads, each = _heads(self._target, name), _head_size(self._target, name)
        odd = packed and heads is not None and each is not None and packed[0] != 3 * heads * each
        if "query_key_value" in local or not packed or odd or packs_by_head(self._target.modules[around], local):
            self.problems.append(
                f"{name}: its heads grow, and which of its outputs are queries does not follow; use separate "
                "projections, or pass attention=False"
            )
            return None
        return packed[0] // 3


def _head_size(model: Built, name: str) -> int | None:
    slot = model.slots[name][0]
    for module in _around(model, name):
        for attribute in HEAD_SIZE:
            if (size := positive(getattr(module, attribute, None))) is not None:
                return size
        for attribute in HEADS:
            heads = positive(getattr(module, attribute, None))
            if heads is not None:
                width = positive(getattr(module, "embed_dim", None)) or min(slot.shape)
                rows = width if model.role(name) is Role.QUERY_KEY_VALUE else _outputs(model, name)
                return rows // heads if rows % heads == 0 else None
    return None


def _heads(model: Built, name: str) -> int | None:
    found = (positive(getattr(module, each, None)) for module in _around(model, name) for each in HEADS)
    return next((heads for heads in found if heads is not None), None)


def _outputs(model: Built, name: str) -> int:
    slot = model.slots[name][0]
    return int(axes_of(slot.module, slot.local_name, slot.shape).fans(slot.shape).fan_out)


def _own_scale(model: Built, name: str) -> float | None:
    """The number that an attention multiplies scores by, if it has one as an attribute.

    That of a block, or of an adapter in a projection, is another one: it is the attention that has its heads too, or
    holds the projection.
    """
    path = module_of(name, model.slots[name][0].local_name)
    holder = model.modules.get(outer(path))
    for module in _around(model, name):
        if module is not holder and not any(positive(getattr(module, each, None)) for each in (*HEAD_SIZE, *HEADS)):
            continue
        for attribute in _SCALES:
            found = getattr(module, attribute, None)
            if isinstance(found, float) and found > 0:
                return found
    return None


def _around(model: Built, name: str) -> Iterator[nn.Module]:
    return modules_around(model.modules, module_of(name, model.slots[name][0].local_name))


def module_of(name: str, local: str) -> str:
    """The path of the module that holds a parameter."""
    return name.removesuffix(local).removesuffix(".")


def whole_layer(path: str) -> str:
    """The layer with its adapters, of which the module at ``path`` may be the base layer, as in peft."""
    while path.rpartition(".")[2] in WRAPPED:
        path = outer(path)
    return path


def is_called(module: nn.Module) -> bool:
    """Whether a module has a forward pass; ``nn.ParameterDict`` has none."""
    return inspect.getattr_static(type(module), "forward") is not inspect.getattr_static(nn.Module, "forward")


def outer(path: str) -> str:
    """The path of the module around a module, or the one that holds a parameter."""
    return path.rpartition(".")[0]


def bias_of(name: str) -> str:
    """The name that the bias beside a weight has."""
    return re.sub("weight$", "bias", name)
