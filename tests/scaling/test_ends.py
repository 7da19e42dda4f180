"""What leads into a network and out of it: read-outs, tables and positions whose other sizes grow too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from zeta import Scaling
from zeta.errors import PlanError
from zeta.resolve.scaling.sources import packs_by_head


class Classifier(nn.Module):
    def __init__(self, width: int, classes: int = 10, length: int = 16) -> None:
        super().__init__()
        self.inp, self.mid = nn.Linear(8, width), nn.Linear(width, width)
        self.pos_embed = nn.Parameter(torch.randn(1, length, width))
        self.head = nn.Linear(width, classes)


def seen(scaling: Scaling, name: str) -> tuple[str, float, float]:
    """The class, and the rates under SGD and Adam."""
    row = scaling[name]
    return row.size.group.value, scaling.rates(row, "sgd").lr, scaling.rates(row, "adam").lr


@pytest.mark.parametrize("classes", [10, 40, 100])
def test_more_classes_are_no_width(classes: int) -> None:
    """40 classes grow as the width does, by 4."""
    scaling = zeta.scale(Classifier, {"width": 64, "classes": 10}, {"width": 256, "classes": classes})
    assert seen(scaling, "head.weight") == ("output", 4, 1)
    assert [(each.module, each.factor) for each in scaling.multipliers] == [("head", 1 / 4)]
    if classes > 10:
        alone = zeta.scale(Classifier, {"width": 64, "classes": 10}, {"width": 64, "classes": classes})
        assert seen(alone, "head.weight") == seen(alone, "head.bias") == ("fixed", 1, 1)


def test_a_last_layer_to_a_width_is_hidden() -> None:
    def build(width: int) -> nn.Module:
        return nn.ModuleDict({"inp": nn.Linear(8, width), "head": nn.Linear(width, width), "norm": nn.LayerNorm(width)})

    scaling = zeta.scale(build, {"width": 64}, {"width": 256})
    assert seen(scaling, "head.weight") == ("hidden", 1, 1 / 4)
    assert seen(scaling, "head.bias") == ("vector", 4, 1)


@pytest.mark.parametrize("length", [64, 128])
def test_more_positions_are_no_width(length: int) -> None:
    base = {"width": 64, "length": 16}
    longer = zeta.scale(Classifier, base, {"width": 64, "length": length}, "completep")
    assert seen(longer, "pos_embed") == ("fixed", 1, 1)
    assert longer.rates(longer["pos_embed"], "adam").eps == 1
    for roles in (None, {"pos_embed": "input"}):
        both = zeta.scale(Classifier, base, {"width": 256, "length": length}, roles=roles)
        assert seen(both, "pos_embed") == ("input", 4, 1)


def test_a_class_does_not_hide_that_dimensions_grow_differently() -> None:
    def build(width: int, count: int) -> nn.Module:
        model = nn.ModuleDict({"inp": nn.Linear(8, width), "mid": nn.Linear(width, count)})
        model.odd = nn.Parameter(torch.randn(count, width))
        return model

    roles = {"odd": "vector", "mid.*": "hidden"}
    with pytest.raises(PlanError, match=r"odd \(8 x 64 becomes 16 x 256\): its dimensions grow differently"):
        zeta.scale(build, {"width": 64, "count": 8}, {"width": 256, "count": 16}, roles=roles)


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.tok, self.mid = nn.Embedding(50, width), nn.Linear(width, width)


class ByLinear(Tied):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.mid(self.tok(x)), self.tok.weight)


class ByProduct(Tied):
    def logits(self, x: Tensor) -> Tensor:
        return x @ torch.transpose(self.tok.weight.to(x.dtype), 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.mid(self.tok(x)))


class Around(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = Tied(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bd,vd->bv", self.body.mid(self.body.tok(x)), self.body.tok.weight)


class Decoder(nn.Module):
    """Multiplies with a table that it is given, or with its weight, or only looks words up in it."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor, table: Any, *, scale: float = 1.0) -> Tensor:
        if self.by == "module":
            return torch.matmul(x * scale, table.weight.transpose(0, 1))
        return F.linear(x, table)


class Looking(nn.Module):
    def forward(self, x: Tensor, table: Any) -> Tensor:
        return x @ x.transpose(0, 1) @ table(torch.zeros(len(x), dtype=torch.long))


class ByDecoder(Tied):
    """Hands its table to a module that multiplies with it, as the read-out of Perceiver."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.decoder = Decoder("module")

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.mid(self.tok(x)), table=self.tok)


class ByWeight(Tied):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.decoder = Decoder("weight")

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.mid(self.tok(x)), self.tok.weight, scale=1.0)


class ByVariable(Tied):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.tok.weight.t()
        return self.mid(self.tok(x)) @ weight


class ByTable(Tied):
    def forward(self, x: Tensor) -> Tensor:
        table: nn.Module = self.tok
        return F.linear(self.mid(table(x)), table.weight)


class Packed(nn.Module):
    """An attention whose packed projection is split into heads first, in several spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)


class ByAnnotated(Packed):
    def forward(self, x: Tensor) -> Tensor:
        packed: Tensor = self.qkv(x)
        return packed.view(*x.shape[:2], 2, 6)


class ByWalrus(Packed):
    def forward(self, x: Tensor) -> Tensor:
        return (packed := self.qkv(x)).view(*x.shape[:2], 2, 6) + packed.mean()


class ByFunction(Packed):
    def forward(self, x: Tensor) -> Tensor:
        return torch.reshape(self.qkv(x), (*x.shape[:2], 2, 6))


class ThreeFirst(Packed):
    def forward(self, x: Tensor) -> Tensor:
        packed: Tensor = self.qkv(x)
        return torch.unflatten(packed, -1, (3, 2, 2))


def test_a_packed_projection_is_followed_through_variables_and_functions() -> None:
    assert [packs_by_head(build(), "qkv") for build in (ByAnnotated, ByWalrus, ByFunction)] == [True] * 3
    assert not packs_by_head(ThreeFirst(), "qkv")


def test_a_table_that_is_handed_to_a_module_that_does_not_multiply_with_it_is_an_input() -> None:
    class ByLooking(Tied):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.decoder = Looking()

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.mid(self.tok(x)), self.tok)

    assert seen(zeta.scale(ByLooking, {"width": 64}, {"width": 256}), "tok.weight") == ("input", 4, 1)


@pytest.mark.parametrize(
    ("build", "by"),
    [
        (ByLinear, "ByLinear"),
        (ByProduct, "ByProduct"),
        (Around, "Around"),
        (ByDecoder, "Decoder"),
        (ByWeight, "Decoder"),
        (ByVariable, "ByVariable"),
        (ByTable, "ByTable"),
    ],
)
def test_a_table_that_is_a_read_out_without_a_module_is_an_error(build: Any, by: str) -> None:
    """Its logits would grow with the width, as there is no module whose input could be multiplied."""
    sizes: tuple[dict[str, int], dict[str, int]] = {"width": 64}, {"width": 256}
    with pytest.raises(PlanError, match=rf"tok\.weight .*: {by} also multiplies with it, as with a read-out"):
        zeta.scale(build, *sizes)
    name = "body.tok.weight" if build is Around else "tok.weight"
    assert seen(zeta.scale(build, *sizes, roles={name: "input"}), name) == ("input", 4, 1)
    assert zeta.scale(Tied, *sizes).multipliers == ()


def test_a_read_out_that_is_not_called_is_an_error() -> None:
    class Uncalled(Tied):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.head = nn.Linear(width, 5, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.mid(self.tok(x)), self.head.weight)

    class Held(Tied):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.ends = nn.ParameterDict({"head": torch.randn(5, width)})

    for build in (Uncalled, Held):
        with pytest.raises(PlanError, match="no module of its own multiplies with it when it is called"):
            zeta.scale(build, {"width": 64}, {"width": 256}, roles={"*head*": "output"})
