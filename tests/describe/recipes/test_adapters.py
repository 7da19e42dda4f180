"""LoRA by its recipes, and every other recipe on models with adapters: the outputs stay as they are, or it refuses."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.models import Basic, ResNet
from tests.helpers.recipe_truth import KEPT, ZERO, assert_plan, draw, normal, uniform
from zeta import Plan, recipes
from zeta.errors import PlanError, SpecError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

RANK = 4


class LoraLinear(nn.Module):
    """With linear layers, as peft names them."""

    def __init__(self, layer: nn.Linear, bias: bool = False) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.Linear(layer.in_features, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, layer.out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class LoraParameters(nn.Linear):
    """With parameters of the layer itself, as loralib names them."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_A = nn.Parameter(torch.ones(RANK, layer.in_features))
        self.lora_B = nn.Parameter(torch.ones(layer.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.lora_A.T @ self.lora_B.T


class LoraEmbedding(nn.Module):
    """A is looked up, and B leads to the embedding's width."""

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_embedding_A = nn.ParameterDict({"default": torch.ones(RANK, layer.num_embeddings)})
        self.lora_embedding_B = nn.ParameterDict({"default": torch.ones(layer.embedding_dim, RANK)})

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.embedding(x, self.lora_embedding_A["default"].T)
        return self.base_layer(x) + low @ self.lora_embedding_B["default"].T


class LoraLookup(nn.Module):
    """A is an embedding itself, and both have the names of a layer's."""

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__()
        self.base = layer
        self.lora_A = nn.Embedding(layer.num_embeddings, RANK)
        self.lora_B = nn.Linear(RANK, layer.embedding_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
        self.word_embedding_head = nn.Linear(16, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.word_embedding_head(self.body(self.embed(x)))


def adapt(model: nn.Module, around: Callable[[Any], nn.Module], kind: type[nn.Module]) -> nn.Module:
    """The model with every layer of a class wrapped; its output projection alone of an attention is not called."""
    for module in list(model.modules()):
        if isinstance(module, nn.MultiheadAttention):
            continue
        for name, child in list(module.named_children()):
            if type(child) is kind:
                setattr(module, name, around(child))
    return model


# -- the recipes themselves --------------------------------------------------------------------------------------------

BASE = {
    f"{name}.{part}": KEPT
    for name in ("embed", "body.0", "body.2", "word_embedding_head")
    for part in (("weight",) if name == "embed" else ("weight", "bias"))
}
WIDTHS = {"body.0": 16, "body.2": 24, "word_embedding_head": 16}


def inside(name: str, wrapped: bool) -> str:
    layer, _, part = name.rpartition(".")
    return f"{layer}.base_layer.{part}" if wrapped and layer in WIDTHS else name


@pytest.mark.parametrize("recipe", ["lora", "rslora"])
@pytest.mark.parametrize("distribution", ["kaiming_uniform", "gaussian"])
@pytest.mark.parametrize("around", [LoraLinear, lambda layer: LoraLinear(layer, bias=True), LoraParameters])
def test_lora_by_hand(recipe: str, distribution: str, around: Callable[[Any], nn.Module]) -> None:
    model = adapt(Tokens(), around, nn.Linear)
    wrapped, biased = isinstance(model.body[0], LoraLinear), getattr(model.body[0], "lora_B", None) is not None
    suffix = ".weight" if wrapped else ""
    biased = wrapped and model.body[0].lora_B.bias is not None
    truth = {inside(name, wrapped): law for name, law in BASE.items()}
    for layer, width in WIDTHS.items():
        gaussian = distribution == "gaussian"
        truth[f"{layer}.lora_A{suffix}"] = normal(0.25) if gaussian else uniform(1 / math.sqrt(width))
        truth[f"{layer}.lora_B{suffix}"] = ZERO
        truth |= {f"{layer}.lora_B.bias": ZERO} if biased else {}
    assert_plan(zeta.plan(model, recipe, distribution=distribution), truth)
    x = torch.arange(50)
    base = Tokens()
    base.load_state_dict({n.replace("base_layer.", ""): v for n, v in model.state_dict().items() if "lora" not in n})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.fill_(7.0)
    draw(model, recipe, distribution=distribution)
    assert torch.equal(model(x), base(x))


@pytest.mark.parametrize("around", [LoraEmbedding, LoraLookup])
def test_lora_of_an_embedding(around: Callable[[Any], nn.Module]) -> None:
    model = adapt(Tokens(), around, nn.Embedding)
    looked_up = around is LoraLookup
    named = (
        ("lora_A.weight", "lora_B.weight") if looked_up else ("lora_embedding_A.default", "lora_embedding_B.default")
    )
    held = {(f"embed.base{'' if looked_up else '_layer'}.weight" if n == "embed.weight" else n): KEPT for n in BASE}
    assert_plan(zeta.plan(model, "lora"), {**held, f"embed.{named[0]}": ZERO, f"embed.{named[1]}": normal(1.0)})


def test_lora_of_convolutions_counts_inputs_with_the_kernel() -> None:
    class LoraConv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer = nn.Conv2d(8, 12, 3)
            self.lora_A, self.lora_B = nn.Conv2d(8, RANK, 3, bias=False), nn.Conv2d(RANK, 12, 1, bias=False)

    truth = {"base_layer.weight": KEPT, "base_layer.bias": KEPT, "lora_B.weight": ZERO}
    assert_plan(zeta.plan(LoraConv(), "lora"), {**truth, "lora_A.weight": uniform(1 / math.sqrt(72))})
    gaussian = zeta.plan(LoraConv(), "lora", distribution="gaussian")
    assert_plan(gaussian, {**truth, "lora_A.weight": normal(1 / RANK)})


@pytest.mark.parametrize("recipe", ["lora", "rslora"])
def test_what_has_no_lora_is_refused(recipe: str) -> None:
    with pytest.raises(SpecError, match=rf"the recipe '{recipe}': the model has no LoRA"):
        zeta.plan(Tokens(), recipe)
    with pytest.raises(SpecError, match="distribution must be one of 'kaiming_uniform', 'gaussian', got 'normal'"):
        zeta.plan(Tokens(), recipe, distribution="normal")


# -- every recipe on models with adapters ------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase], **kwargs: Any) -> None:
        super().__init__()
        self.rnn, self.head = layer(12, 16, batch_first=True, **kwargs), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Cell(nn.Module):
    """One step of an LSTM, with the gates in linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.x2h, self.h2h, self.head = nn.Linear(12, 64), nn.Linear(16, 64), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.x2h(x) + self.h2h(torch.ones(*x.shape[:-1], 16))
        i, f, g, o = gates.chunk(4, -1)
        return self.head(o.sigmoid() * (f.sigmoid() + i.sigmoid() * g.tanh()).tanh())


class Residual(nn.Module):
    """Without norms, with a scalar for each branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(12, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(3))
        self.scales = nn.ParameterList(torch.ones(1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x = x + scale * block(x)
        return self.head(x)


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, outputs)) for outputs in (3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.actor(x), self.critic(x)], -1)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        return self.out(scores.softmax(-1) @ self.v(x))


class Encoder(nn.Module):
    """A transformer's, without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        mlps = [nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(2)]
        self.encoder = nn.ModuleList(nn.ModuleDict({"attention": SelfAttention(), "mlp": mlp}) for mlp in mlps)
        self.head = nn.Linear(16, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.encoder:
            for branch in layer.values():
                x = x + branch(x)
        return self.head(x)


def gpt2() -> nn.Module:
    sizes = {"vocab_size": 40, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def llama() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=40))


def vit() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=16, patch_size=8))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))


IDS, VECTORS, IMAGES = (
    lambda: torch.arange(10)[None],
    lambda: torch.randn(4, 6, 12),
    lambda: torch.randn(2, 3, 32, 32),
)
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "gpt2": (gpt2, IDS),
    "llama": (llama, IDS),
    "vit": (vit, lambda: torch.randn(2, 3, 16, 16)),
    "resnet": (lambda: ResNet(Basic, 4, 4), lambda: torch.randn(2, 3, 32, 32)),
    "mlp": (mlp, VECTORS),
    "lstm": (lambda: Recurrent(nn.LSTM), VECTORS),
    "gru": (lambda: Recurrent(nn.GRU), VECTORS),
    "rnn": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), VECTORS),
    "cell": (Cell, VECTORS),
    "agent": (Agent, VECTORS),
    "residual": (Residual, VECTORS),
    "tokens": (Tokens, IDS),
    "encoder": (Encoder, IDS),
}
OWN = ("lora", "rslora")
#: the recipes for networks of which none is here
ALONE = {
    *("controlnet", "deformable_detr", "detr", "diffusion_unet", "dit", "edm", "edm2", "mamba", "mamba2", "moe"),
    *("nnunet", "retinanet", "stylegan2", "swin", "swin_v2", "t5", "torchtitan_deepseek_v3", "vq"),
}


def fits(model: nn.Module, recipe: str) -> bool:
    if recipe in OWN:
        return True
    try:
        zeta.plan(model, recipe)
    except (PlanError, SpecError):
        return False
    return True


@pytest.fixture
def quiet() -> Iterator[None]:
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)


def output(model: nn.Module, x: Tensor) -> Tensor:
    found = model.eval()(x)
    return (found if isinstance(found, Tensor) else found.logits).detach()


def without_adapters(model: nn.Module, x: Tensor) -> Tensor:
    """The output with the products B A left out."""
    held = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if "lora" in name}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in held:
                parameter.zero_()
        bare = output(model, x)
        for name, parameter in model.named_parameters():
            if name in held:
                parameter.copy_(held[name])
    return bare


def by_hand(name: str) -> nn.Module:
    model = MODELS[name][0]()
    if name == "gpt2":
        adapt(model, lambda layer: LoraLinear(layer), nn.Linear)
    else:
        adapt(model, lambda layer: LoraLinear(layer, bias=True), nn.Linear)
    return adapt(model, LoraEmbedding, nn.Embedding)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_leaves_lora_without_effect(recipe: str) -> None:
    for name in fitting(recipe):
        model, x = by_hand(name), MODELS[name][1]()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora" in key:
                    parameter.fill_(7.0)
        plan = zeta.plan(model, recipe)
        zeta.apply_(model, plan, seed=0)
        assert_base_as_without(plan, MODELS[name][0](), recipe)
        assert_lora_off(model)
        assert torch.equal(output(model, x), without_adapters(model, x)), name


@pytest.mark.parametrize("recipe", sorted(ALONE))
def test_the_rules_for_adapters_come_first(recipe: str) -> None:
    adapted = [rule.label for rule in recipes.rules_for(recipe, by_hand("gpt2"))]
    alone = [rule.label for rule in recipes.rules_for(recipe, MODELS["gpt2"][0]())]
    assert any(label.startswith("LoRA B") for label in adapted)
    assert adapted[len(adapted) - len(alone) :] == alone


def fitting(recipe: str) -> list[str]:
    """The models here that a recipe fits; one at least, except for those that need parts which no adapter is for."""
    found = [name for name in MODELS if fits(MODELS[name][0](), recipe)]
    assert bool(found) is (recipe not in ALONE)
    return found


def assert_base_as_without(plan: Plan, base: nn.Module, recipe: str) -> None:
    """The model itself gets what it gets without adapters."""
    if recipe in OWN:
        return
    found = {
        entry.name.removeprefix("base_model.model.").replace("base_layer.", ""): entry for entry in plan.parameters
    }
    for entry in zeta.plan(base, recipe).parameters:
        ours = repr(found[entry.name].initializer.to_json())  # in which programs name the parameters that they draw
        assert ours.replace("base_model.model.", "").replace("base_layer.", "") == repr(entry.initializer.to_json())


def assert_lora_off(model: nn.Module) -> None:
    """Of each pair, one is 0 and the other is not."""
    pairs = 0
    parameters = dict(model.named_parameters())
    for name, a in parameters.items():
        if "lora_A" in name or "lora_embedding_A" in name:
            b = parameters[name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
            first, second = (b, a) if "embedding" in name.rpartition("lora_")[2] else (a, b)
            assert first.any(), name
            assert not second.any(), name
            pairs += 1
    assert pairs
    assert not any(p.any() for n, p in parameters.items() if "lora" in n and n.endswith("bias"))


class Other(nn.Module):
    """A layer with an adapter that is none of LoRA."""

    def __init__(self, layer: nn.Linear, name: str) -> None:
        super().__init__()
        self.base_layer = layer
        setattr(self, name, nn.ParameterDict({"default": torch.ones(layer.out_features)}))


@pytest.mark.parametrize("name", ["ia3_l", "vera_lambda_b", "lora_magnitude_vector"])
@pytest.mark.parametrize("recipe", ["torch", "lora", "rslora"])
def test_another_adapter_is_refused_by_name(recipe: str, name: str) -> None:
    model = adapt(mlp(), lambda layer: Other(layer, name), nn.Linear)
    if recipe in OWN:
        adapt(model, LoraLinear, nn.Linear)
    with pytest.raises(PlanError) as caught:
        zeta.init_(model, recipe, seed=0)
    text = str(caught.value)
    assert f"{name}.default" in text
    assert "belongs to an adapter, which no recipe knows" in text
    assert "or leave it as it is with Keep()" in text


# -- peft --------------------------------------------------------------------------------------------------------------


def with_peft(model: nn.Module, **config: Any) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=RANK, **config))


def layers_of(model: nn.Module) -> list[str]:
    kinds = ("Linear", "Conv2d", "Embedding", "Conv1D")
    names = [name for name, module in model.named_modules() if type(module).__name__ in kinds]
    return [name for name in names if name != "lm_head"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_leaves_pefts_lora_without_effect(recipe: str) -> None:
    pytest.importorskip("peft")
    for name in fitting(recipe):
        model = MODELS[name][0]()
        model = with_peft(model, target_modules=layers_of(model), init_lora_weights=False)
        plan = zeta.plan(model, recipe)
        zeta.apply_(model, plan, seed=0)
        assert_base_as_without(plan, MODELS[name][0](), recipe)
        assert_lora_off(model)


@pytest.mark.parametrize("recipe", ["lora", "rslora"])
@pytest.mark.parametrize("distribution", ["kaiming_uniform", "gaussian"])
def test_lora_is_that_of_peft(recipe: str, distribution: str) -> None:
    def reset(model: nn.Module) -> None:
        for module in model.modules():
            if hasattr(module, "reset_lora_parameters"):
                module.reset_lora_parameters("default", "gaussian" if distribution == "gaussian" else True)

    base = nn.ModuleDict({"tokens": Tokens(), "image": nn.Conv2d(3, 8, 3), "classes": nn.Linear(8, 2)})
    config = {
        "target_modules": [*[f"tokens.{n}" for n in layers_of(base.tokens)], "image"],
        "modules_to_save": ["classes"],
    }
    model = with_peft(base, **config, use_rslora=recipe == "rslora", lora_bias=False)
    theirs, ours = zeta.plan(model, reset), zeta.plan(model, recipe, distribution=distribution)
    difference = zeta.diff(theirs, ours)
    assert difference.same, str(difference)


def test_dora_is_refused() -> None:
    model = with_peft(mlp(), target_modules=["0", "2"], use_dora=True)
    for recipe in ("torch", "lora"):
        with pytest.raises(PlanError, match=r"lora_magnitude_vector.*belongs to an adapter"):
            zeta.plan(model, recipe)
