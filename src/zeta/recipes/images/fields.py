"""Neural fields: networks that map coordinates to colours, densities or distances."""

from __future__ import annotations

import math
from typing import Final

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.errors import SpecError
from zeta.fans import fans
from zeta.initializers import Initializer, Uniform, Zeros, glorot_uniform
from zeta.recipes.parts import RECURRENT, law, positive, recipe
from zeta.rules import Match, Rule, Rules, Where, kind, ndim, regex
from zeta.rules.adapters import adapters_of

#: the last parts of names
_TABLES: Final = r"(?i)(.*\.)?(hash\w*|tables?|grids?|embeddings?|encod\w*\.params)(\.\d+)?(\.weight)?"


@recipe
def siren(model: nn.Module, *, omega: float = 30.0, first: str | None = None) -> Rules:
    """SIREN: first layers uniform on ±1/n, others on ±sqrt(6/n)/omega, biases on ±1/sqrt(n), n the layer's inputs.

    For networks with the activation sin(omega x), the first layer's too; the output layer is one of the others. The
    first layers are those whose module, or the module around them, says ``is_first = True``, or else the first linear
    layer of the model. Biases are torch's defaults, as in the released code.

    Options:
        omega: the factor inside of the sine.
        first: the name of the first linear layer, if it is not the first that the model holds.

    Source: Sitzmann et al. 2020 (arXiv:2006.09661), section 3.2 and supplement 1.5; ``modules.py`` of the released
    code.
    """
    positive("siren", omega=omega)
    firsts = _first_layers(model, first)

    def is_first(match: Match) -> bool:
        return match.module in firsts

    return Rules(
        [
            Rule(
                Where("first layers", kind("weight") & is_first),
                law("uniform on ±1/n", lambda match: _within(1 / _n(match))),
            ),
            Rule(
                Where("other layers", kind("weight")),
                law(f"uniform on ±sqrt(6/n) / {omega:g}", lambda match: _within(math.sqrt(6 / _n(match)) / omega)),
            ),
            Rule(
                Where("biases", kind("bias")),
                law("uniform on ±1/sqrt(n)", lambda match: _within(_inputs(match.module) ** -0.5)),
                optional=True,
            ),
        ]
    )


def _first_layers(model: nn.Module, given: str | None) -> frozenset[nn.Module]:
    named, adapters = dict(named_modules_of(model)), adapters_of(model)
    layers = {name: module for name, module in named.items() if _is_layer(module) and adapters.of(name) is None}
    if given is not None:
        if layers and given not in layers:
            raise SpecError(f"the recipe 'siren': first={given!r} names no layer; the layers are {', '.join(layers)}")
        return frozenset([layers[given]]) if layers else frozenset()
    said = [
        module
        for name, module in layers.items()
        if any(getattr(each, "is_first", None) is True for each in (module, named[name.rpartition(".")[0]]))
    ]
    return frozenset(said or list(layers.values())[:1])


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or getattr(module._parameters.get("weight"), "ndim", 0) >= 2


def _within(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def _n(match: Match) -> int | float:
    return match.fans.fan_in


def _inputs(layer: nn.Module) -> int | float:
    return fans(layer, "weight").fan_in


@recipe
def nerf(model: nn.Module) -> Rules:
    """NeRF: weights Glorot-uniform, on ±sqrt(6/(fan_in + fan_out)), and biases 0, as Keras's dense layers.

    Ports to torch often have torch's own defaults instead, which are the recipe ``torch``.

    Source: Mildenhall et al. 2020 (arXiv:2003.08934); ``run_nerf_helpers.py`` of the released code.
    """
    return Rules(
        [
            Rule(Where("weights", kind("weight") & ~RECURRENT), glorot_uniform()),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


@recipe
def instant_ngp(model: nn.Module) -> Rules:
    """Instant-NGP: hash tables uniform on ±0.0001, weights Glorot-uniform, on ±sqrt(6/(fan_in + fan_out)), biases 0.

    Hash tables are embeddings, and parameters with a name such as ``hash_table``, ``hashgrid``, ``embeddings`` or
    ``encoding.params``. The parameters of tiny-cuda-nn, a single vector of all layers, hold table and weights together
    and are refused.

    Source: Müller et al. 2022 (arXiv:2201.05989), section 4; ``grid.h`` of tiny-cuda-nn.
    """
    fused = Where("fused parameters", ndim(1) & regex(r"(.*\.)?params"))
    tables = Where("hash tables", (kind("embedding") | regex(_TABLES)) & ~kind("bias"))
    return Rules(
        [
            Rule(fused, law("refused", _refuse_fused), optional=True),
            Rule(tables, _within(1e-4)),
            Rule(Where("weights", kind("weight") & ~RECURRENT), glorot_uniform()),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


def _refuse_fused(match: Match) -> Initializer:
    raise SpecError("holds table and weights of tiny-cuda-nn in one vector; let its module initialize it, with Keep()")
