"""The role of each weight in its network: attention output, MLP down projection, router, read-out and the like.

Names propose, shapes decide. ``role_names`` has the names that libraries use. A weight is an MLP's down projection
only if a weight beside it leads from its output's width to its input's, and an attention's output only in a module
that is an attention by its name, its class or its ``forward``. Weights without a known name get a role by the shapes
of the weights beside them, in the order of registration.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from torch import nn

from zeta.base import html
from zeta.base.modules import check_module
from zeta.base.text import count_text, fold, table
from zeta.base.usage import attends
from zeta.fans import known_axes
from zeta.resolve.roles.mlps import in_mlp
from zeta.resolve.roles.sites import Site, grouped, last_parts, projection
from zeta.resolve.slots import Slot, named_modules, walk
from zeta.rules import role_names as names
from zeta.rules.adapters import Adapters
from zeta.rules.match import Kind, Role

_HEADINGS: Final = ("name", "role")
_WEIGHTS: Final = (Kind.WEIGHT, Kind.EMBEDDING, Kind.OTHER)
_PROJECTIONS: Final = (Role.QUERY, Role.KEY, Role.VALUE, Role.QUERY_KEY_VALUE)


class Roles(dict[str, Role]):
    """The roles of a model's parameters by name, a dictionary that prints as a table."""

    def __repr__(self) -> str:
        found = ", ".join(dict.fromkeys(self.values())) or "none"
        return f"Roles({count_text(len(self), 'parameter')}: {found})"

    def __str__(self) -> str:
        return table(_HEADINGS, self._rows())

    def _repr_html_(self) -> str:
        return html.page(html.table_section(repr(self), _HEADINGS, self._rows()))

    def _rows(self) -> list[tuple[str, str]]:
        return [(name, found[0].value) for name, found in fold((name, role, role) for name, role in self.items())]


def roles_of(model: nn.Module) -> Roles:
    """The role of each parameter that has one, by name; of a bias, the role of its layer's weight.

    ``print`` shows a table.

    >>> roles = roles_of(nn.MultiheadAttention(4, 2))
    >>> roles["in_proj_weight"].value, roles["out_proj.bias"].value
    ('query_key_value', 'attention_output')
    """
    check_module(model)
    return Roles(found_in(model, walk(model)))


def found_in(model: nn.Module, slots: Sequence[Slot]) -> dict[str, Role]:
    """``roles_of`` for a model whose names are known."""
    search = _Search(model, slots)
    roles = search.roles()
    layers = {(id(slot.module), _layer(slot.local_name)): roles[slot.name] for slot in slots if slot.name in roles}
    biases = {
        slot.name: layers[key]
        for slot in slots
        if slot.kind is Kind.BIAS and (key := (id(slot.module), _layer(slot.local_name))) in layers
    }
    return {slot.name: found for slot in slots if (found := roles.get(slot.name) or biases.get(slot.name)) is not None}


def _layer(local_name: str) -> str:
    """What the names of a weight and its bias have in common: ``in_proj_`` of ``in_proj_weight``."""
    return re.sub(r"weight|bias", "", local_name)


class _Search:
    """Finds the roles in one model."""

    def __init__(self, model: nn.Module, slots: Sequence[Slot]) -> None:
        self._model = model
        self._modules = named_modules(model)
        self._slots = [slot for slot in slots if slot.kind in _WEIGHTS]
        self._adapters = Adapters(self._modules)
        self._found: dict[str, Role] = {}

    def roles(self) -> dict[str, Role]:
        """By name of the weight."""
        for slot in self._slots:
            adapter = self._adapters.of(slot.name)
            if (role := adapter.role if adapter else _by_name(slot)) is not None:
                self._found[slot.name] = role
        sites = [site for slot in self._slots if slot.name not in self._found for site in self._site(slot)]
        self._readouts_by_model()
        for site in sites:
            if (role := self._of_layer(site)) is not None:
                self._set(site, role)
        inside: set[str] = set()  # a head of several layers ends in its read-out
        for head in grouped(sites, lambda site: site.path[:-1] if site.path[-1].isdecimal() else None):
            for site, later in itertools.pairwise(head):
                if self._role(site) is self._role(later) is Role.READOUT and site.out == later.into:
                    inside.add(site.slot.name)
        self._found = {name: role for name, role in self._found.items() if name not in inside}
        sites = [site for site in sites if site.slot.name not in inside]
        for attention in grouped(sites, lambda site: site.attention):
            self._in_attention(attention)
        for block in grouped(sites, lambda site: site.block if site.attention is None and site.mlp is None else None):
            if {projection(site) for site in block} >= {Role.QUERY, Role.KEY, Role.VALUE}:
                self._in_attention(
                    [site for site in block if projection(site) or names.OUT_OF_BLOCK.fullmatch(site.path[-1])]
                )
        for mlp in grouped(sites, lambda site: site.mlp):
            self._in_mlp(mlp, sites)
        attending = {
            site.path[:length]
            for site in sites
            if self._role(site) is Role.ATTENTION_OUTPUT
            for length in range(1, len(site.path))
        }
        rest = [site for site in sites if site.mlp is None and self._role(site) is None]
        for block in grouped(rest, lambda site: site.block):
            self._in_mlp(block, sites, named=block[0].block not in attending)
        self._last(sites)
        return self._found

    def _set(self, site: Site, role: Role) -> None:
        self._found.setdefault(site.slot.name, role)

    def _role(self, site: Site) -> Role | None:
        return self._found.get(site.slot.name)

    # -- what one weight says of itself

    def _site(self, slot: Slot) -> Iterator[Site]:
        axes = known_axes(slot.module, slot.local_name, slot.shape)
        if axes is None or len(slot.shape) < 2:
            return
        kernel = set(axes.fan_in) & set(axes.fan_out)
        if math.prod(slot.shape[dim] for dim in kernel) != 1 and not _is_patch(slot):
            return
        path = tuple(slot.name.split("."))
        path = path[:-1] if path[-1] == "weight" and len(path) > 1 else path
        while len(path) > 1 and (path[-1] in names.WRAPPED or ".".join(path) in self._adapters.bases):
            path = path[:-1]
        into, out = (
            math.prod(slot.shape[dim] for dim in dims if dim not in kernel) for dims in (axes.fan_in, axes.fan_out)
        )
        yield Site(slot=slot, path=path, into=into, out=out, **self._context(path))

    def _context(self, path: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """The path of the attention or of the MLP around a weight, whichever is nearer."""
        for length in range(len(path) - 1, -1, -1):
            local = path[length - 1] if length else ""
            if (module := self._modules.get(".".join(path[:length]))) is None:
                continue
            kind: Any = type(module)
            if names.ATTENTION.search(local) or (length and names.ATTENTION_CLASS.search(kind.__name__)):
                return {"attention": path[: self._outermost(path, length)]}
            if names.MLP.search(local) or (length and names.MLP_CLASS.search(kind.__name__)):
                # each expert of a list is an MLP
                return {"mlp": path[: length + (path[length].isdecimal() and length < len(path) - 1)]}
            if isinstance(module, nn.MultiheadAttention) or attends(module):
                return {"attention": path[:length]}
            if local.isdecimal() and length < len(path) - 1:
                break
        return {}

    def _outermost(self, path: tuple[str, ...], length: int) -> int:
        """``attention.self`` and ``attention.output`` belong to one attention."""
        for outer in range(length - 1, 0, -1):
            if path[outer - 1].isdecimal():
                break
            if names.ATTENTION.search(path[outer - 1]):
                length = outer
        return length

    def _of_layer(self, site: Site) -> Role | None:
        """Roles that do not depend on the weights beside."""
        if _is_patch(site.slot):
            return Role.PATCH_EMBEDDING if names.PATCH.search(".".join(site.path[-3:])) else None
        if names.PATCHES.fullmatch(site.path[-1]) or names.PATCHES.fullmatch(".".join(site.path[-2:])):
            return Role.PATCH_EMBEDDING
        if self._routes(site):
            return Role.ROUTER
        # of a head that is an MLP, the name of the head
        path = site.path[:-2] if site.path[-2:-1] == ("layers",) and site.path[-1].isdecimal() else site.path
        outside = path and not any(part.isdecimal() for part in path[:-2])
        inside = site.attention is not None or site.mlp not in (None, path)
        if outside and not inside and names.READOUT.fullmatch(last_parts(path)):
            return Role.READOUT
        return None

    def _routes(self, site: Site) -> bool:
        if not names.ROUTER.fullmatch(site.path[-1]) and not names.ROUTER.fullmatch(".".join(site.path[-2:])):
            return False
        depth = len(site.path) - 1
        for length in (depth, depth - 1):
            module = self._modules.get(".".join(site.path[:length]))
            if module is not None and any(names.EXPERTS.search(child) for child in _children(module)):
                return True
        return "router" in site.path[-1]

    def _readouts_by_model(self) -> None:
        """What the model itself names as its output layer, and weights that are tied to an embedding."""
        embeddings = {id(slot.tensor) for slot in self._slots if self._found.get(slot.name) is Role.EMBEDDING}
        head = _output_embeddings(self._model)
        for slot in self._slots:
            tied = id(slot.tensor) in embeddings and slot.kind is not Kind.EMBEDDING and not _is_table(slot)
            if tied or (head is not None and slot.module is head and slot.kind is Kind.WEIGHT):
                self._found[slot.name] = Role.READOUT

    # -- what the weights beside say

    def _in_attention(self, sites: list[Site]) -> None:
        free = [site for site in sites if self._role(site) is None]
        for site in free:
            if (role := projection(site)) is not None:
                self._set(site, role)
        projections = [site for site in sites if self._role(site) in _PROJECTIONS]
        rest = [site for site in free if self._role(site) is None and not names.BESIDE.search(site.within_attention)]
        widths = {site.into for site in projections if self._role(site) in (Role.QUERY, Role.QUERY_KEY_VALUE)}
        outputs = [site for site in rest if names.ATTENTION_OUTPUT.fullmatch(last_parts(site.path))]
        if not outputs and projections:
            outputs = [site for site in rest if site.out in widths][-1:]
        if not projections and self._by_shape(rest):
            return
        for site in outputs:
            self._set(site, Role.ATTENTION_OUTPUT)

    def _by_shape(self, sites: list[Site]) -> bool:
        """An attention whose names say nothing: one packed or three separate projections, then the output."""
        if len(sites) == 2 and sites[0].out == 3 * sites[0].into and sites[1].out == sites[0].into:
            found: tuple[Role, ...] = (Role.QUERY_KEY_VALUE, Role.ATTENTION_OUTPUT)
        elif len(sites) == 4 and sites[0].out == sites[3].into and sites[3].out == sites[0].into:
            found = (Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUTPUT)
        else:
            return False
        hints = [names.HINTS.search(names.plain(site.path[-1])) for site in sites]
        if any(
            hint is not None and hint[0].strip("_")[0] != role.value[0] for hint, role in zip(hints, found, strict=True)
        ):
            return False  # they come in another order than names say
        for site, role in zip(sites, found, strict=True):
            self._set(site, role)
        return True

    def _in_mlp(self, mlp: list[Site], sites: list[Site], *, named: bool = False) -> None:
        free = [site for site in mlp if self._role(site) is None and not names.NO_MLP.search(site.within)]
        for site, role in in_mlp(free, self._stream(free[0], sites), named=named) if free else ():
            self._set(site, role)

    def _stream(self, site: Site, sites: list[Site]) -> set[int]:
        """The widths of the residual stream: as attentions end in the same block, or else in the same list."""
        ends = [each for each in sites if self._role(each) is Role.ATTENTION_OUTPUT]
        if ends:
            beside = {each.out for each in ends if each.block == site.block}
            return beside or {each.out for each in ends if each.listed == site.listed}
        tables = [slot.shape for slot in self._slots if self._found.get(slot.name) in (Role.EMBEDDING, Role.POSITION)]
        return {shape[-1] for shape in tables if shape}

    def _last(self, sites: list[Site]) -> None:
        """The last weight is the read-out if nothing else is, and it is in no block."""
        if Role.READOUT in self._found.values() or not sites:
            return
        last = sites[-1]
        alone = last.block == () and not names.NO_READOUT.search(".".join(last.path))
        stream = {site.out for site in sites if self._role(site) is Role.ATTENTION_OUTPUT}
        # without attentions, the last layer of a plain network may be named like a down projection
        free = self._role(last) is None or (self._role(last) is Role.MLP_DOWN and not stream)
        free = free and (not stream or last.into in stream)
        if alone and free and last.attention is None and len(sites) > 1:
            self._found[last.slot.name] = Role.READOUT


def _by_name(slot: Slot) -> Role | None:
    """Roles that a name gives away: tables, tokens and scales."""
    parts = [part for part in slot.name.split(".") if part not in names.WRAPPED]
    local = ".".join(parts[-2:]) if parts[-1] == "weight" else parts[-1]
    table = slot.kind is Kind.EMBEDDING or _is_table(slot)
    if table or (slot.kind is not Kind.WEIGHT or parts[-1] != "weight"):
        if names.RELATIVE.search(local):
            return Role.RELATIVE_POSITION
        if names.POSITION.search(local) and not names.NO_POSITION.search(local):
            return Role.POSITION
    if table:
        return Role.EMBEDDING
    if names.CLASS_TOKEN.fullmatch(parts[-1]):
        return Role.CLASS_TOKEN
    if names.LAYER_SCALE.fullmatch(parts[-1]) or names.LAYER_SCALE.fullmatch(".".join(parts[-2:])):
        return Role.LAYER_SCALE
    return None


def _is_table(slot: Slot) -> bool:
    """Whether a class other than torch's says that its weight is a table, as Megatron's ``VocabParallelEmbedding``."""
    named = names.EMBEDDING_CLASS.search(type(slot.module).__name__) is not None
    return named and slot.local_name == "weight" and len(slot.shape) == 2


def _is_patch(slot: Slot) -> bool:
    """Whether a convolution cuts its input into pieces that do not overlap."""
    kernel, stride = (getattr(slot.module, name, None) for name in ("kernel_size", "stride"))
    apart = isinstance(kernel, tuple) and kernel == stride and max(kernel) > 1
    return apart and getattr(slot.module, "groups", 1) == 1


def _children(module: nn.Module) -> Iterable[str]:
    return [*module._modules, *module._parameters]


def _output_embeddings(model: nn.Module) -> Any:
    """The module that a model of transformers says is its output layer."""
    try:
        return model.get_output_embeddings()  # type: ignore[operator]
    except Exception:  # it is the model's own code, and there need not be any
        return None
