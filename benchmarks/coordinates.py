"""The coordinate check of scaled models: how outputs of layers, and their changes in training, grow with the size.

    python -m benchmarks.coordinates [--page docs/scaling.md]

Six steps of Adam on one batch of 16 tokens, vectors or images, from three seeds; the read-out starts at zero where
nothing else is said. A page gets the tables between two comments.
``tests/scaling/test_coordinates.py`` has the limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

import zeta
from tests.helpers.coordinates import Slopes, slopes
from tests.helpers.scaled import Cnn, Gpt, Mlp, ResidualMlp

WIDTHS: Final = (128, 256, 512, 1024)
DEPTHS: Final = (2, 4, 8, 16, 32)
SEEDS: Final = 3
_GENERATOR: Final = torch.Generator().manual_seed(0)
_TOKENS: Final = torch.randint(16, (2, 9), generator=_GENERATOR)
_VECTORS: Final = torch.randn(16, 32, generator=_GENERATOR)
_IMAGES: Final = torch.randn(16, 3, 8, 8, generator=_GENERATOR)
_CLASSES: Final = torch.randint(10, (16,), generator=_GENERATOR)
_START, _END = "<!-- slopes -->\n", "<!-- end of slopes -->\n"


class Case(NamedTuple):
    """A model, how its sizes are made, and which of its modules are what."""

    build: Callable[..., nn.Module]
    base: Mapping[str, int]
    size: Callable[[int], dict[str, int]]
    loss: Callable[[nn.Module], Tensor]
    readout: str
    hidden: tuple[str, ...]
    branches: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    sizes: tuple[int, ...] = WIDTHS
    rate: float = 1e-2
    options: Mapping[str, Any] = {}

    def measured(self, how: str, *, zero: bool = True, seeds: int = SEEDS) -> dict[str, Slopes]:
        """The slopes of all of these modules; ``zero``: the read-out starts at zero."""

        def make(size: int, seed: int) -> tuple[nn.Module, list[dict[str, Any]]]:
            target = self.size(size)
            scaling = zeta.scale(self.build, self.base, target, how, **self.options)
            model = self.build(**target)
            zeta.init_(model, scaling, seed=seed)
            if zero:
                nn.init.zeros_(model.get_submodule(self.readout).weight)  # type: ignore[arg-type]
            scaling.apply_multipliers_(model)
            return model, scaling.param_groups(model, "adam", lr=self.rate)

        layers = [*self.hidden, *self.branches, *self.routers, self.readout]
        return slopes(make, self.sizes, self.loss, layers, seeds=seeds)


def _of_tokens(model: nn.Module) -> Tensor:
    output = model(_TOKENS[:, :-1])
    logits: Tensor = getattr(output, "logits", output)
    return F.cross_entropy(logits.flatten(0, 1), _TOKENS[:, 1:].flatten())


def _of_vectors(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(_VECTORS), _CLASSES)


def _of_images(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(_IMAGES), _CLASSES)


def _transformer(model_type: str) -> Callable[..., nn.Module]:
    """A function that builds a small model of transformers: heads of 16, two of them for each of keys and values."""

    def build(width: int) -> nn.Module:
        import transformers

        config = transformers.AutoConfig.for_model(
            model_type,
            hidden_size=width,
            intermediate_size=2 * width,
            num_attention_heads=width // 16,
            num_key_value_heads=width // 32,
            num_hidden_layers=2,
            vocab_size=64,
            pad_token_id=0,
            **({"num_local_experts": 4} if model_type == "mixtral" else {}),
        )
        model: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
        return model

    return build


def _experts(width: int, heads: int) -> nn.Module:
    return Gpt(width, heads=heads, experts=4)


def _heads(width: int) -> dict[str, int]:
    return {"width": width, "heads": width // 16}


def _only(width: int) -> dict[str, int]:
    return {"width": width}


_BLOCKS: Final = ("tok", "h.0", "h.1", "nf")
_LAYERS: Final = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm")
_ENDS: Final = tuple(f"model.layers.{n}.{part}" for n in range(2) for part in ("self_attn", "mlp"))
_GATES: Final = ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
_OWN_HEADS: Final = {"attention": False}  # their size stays
_GPT: Final = Case(
    Gpt, _heads(32), _heads, _of_tokens, "lm_head", _BLOCKS, ("h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp")
)
CASES: Final[Mapping[str, Case]] = {
    "MLP": Case(Mlp, _only(32), _only, _of_vectors, "out", ("inp", "h1", "h2"), sizes=(256, 512, 1024, 2048)),
    "CNN": Case(Cnn, _only(32), _only, _of_images, "fc", ("c1", "deep", "c2")),
    "GPT": _GPT,
    "GPT with experts": _GPT._replace(build=_experts, routers=("h.0.mlp.router", "h.1.mlp.router")),
    "Llama": Case(
        _transformer("llama"), _only(32), _only, _of_tokens, "lm_head", _LAYERS, _ENDS, rate=1e-3, options=_OWN_HEADS
    ),
    "Mixtral": Case(
        _transformer("mixtral"), _only(32), _only, _of_tokens, "lm_head", _LAYERS, _ENDS, _GATES, rate=1e-3,
        options=_OWN_HEADS,
    ),
}  # fmt: skip
#: of the last block; those of a branch are multiplied by 1/depth
DEEP: Final[Mapping[str, Case]] = {
    "GPT": Case(
        Gpt, {**_heads(32), "layers": 2}, lambda layers: {**_heads(128), "layers": layers}, _of_tokens, "lm_head",
        ("tok", "h.{last}", "nf"), sizes=DEPTHS,
    ),
    "residual MLP": Case(
        ResidualMlp, {"width": 32, "layers": 2}, lambda layers: {"width": 128, "layers": layers}, _of_vectors, "out",
        ("inp", "blocks.{last}", "norm"), sizes=DEPTHS,
    ),
}  # fmt: skip


def steepest(found: Mapping[str, Slopes], layers: tuple[str, ...]) -> float:
    """Of outputs after training and of their changes, the slope that is furthest from 0."""
    return max((slope for layer in layers for slope in found[layer][1:]), key=abs, default=math.nan)


def _row(name: str, how: str, case: Case, *, zero: bool = True) -> str:
    if how == "umup":  # has rates of its own, and the rate of a table falls with the width on purpose
        case = case._replace(rate=0.3, hidden=case.hidden[1:])
    found = case.measured(how, zero=zero)
    cells = [steepest(found, layers) for layers in (case.hidden, case.branches, case.routers)]
    logits = found[case.readout]
    cells += [logits.start, steepest(found, (case.readout,))]
    line = f"| {name} | {how} | {' | '.join('' if math.isnan(cell) else f'{cell:+.2f}' for cell in cells)} |"
    print(line, flush=True)
    return line


_HEAD: Final = """
| {over} | | hidden states | branches | routers | logits at the start | logits |
|---|---|---|---|---|---|---|
"""


def main(page: Annotated[Path | None, typer.Option(help="write the tables into this page")] = None) -> None:
    """Measure, and print the tables."""
    wide = [_row(name, how, case) for name, case in CASES.items() for how in ("mup", "sp")]
    wide += [_row(f"{name}, own read-out", "mup", CASES[name], zero=False) for name in ("GPT", "Llama")]
    wide.append(_row("GPT", "umup", _GPT))
    deep = [_row(name, how, case) for name, case in DEEP.items() for how in ("completep", "sp")]
    deep.append(_row("GPT", "umup", DEEP["GPT"]))
    tables = [_HEAD.format(over=over) + "\n".join(rows) + "\n" for over, rows in (("width", wide), ("depth", deep))]
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(_START)
        page.write_text(before + _START + "".join(tables) + "\n" + _END + rest.partition(_END)[2], encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
