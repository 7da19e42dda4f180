"""The roles of weights: in models of libraries and in hand-written ones, whose names say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import zeta
from zeta import Role, Rule, Rules, roles_of
from zeta.errors import PlanError, SpecError
from zeta.initializers import Normal, Ones, Zeros
from zeta.rules import kind, role
from zeta.rules.file import read_rules

D, F, V = 8, 24, 32


def roles(model: nn.Module) -> dict[str, str]:
    """The roles of weights only, by name."""
    return {name: found.value for name, found in roles_of(model).items() if not name.endswith("bias")}


class Named(nn.Module):
    """Torchtitan's names."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.ModuleDict(
                {"wq": linear(D, D), "wk": linear(D, 4), "wv": linear(D, 4), "wo": linear(D, D)}
            )
            self.feed_forward = nn.ModuleDict({"w1": linear(D, F), "w2": linear(F, D), "w3": linear(D, F)})
            self.attention_norm = nn.RMSNorm(D)

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(V, D)
        self.layers = nn.ModuleDict({str(number): self.Block() for number in range(2)})
        self.output = linear(D, V)


def linear(into: int, out: int) -> nn.Linear:
    return nn.Linear(into, out, bias=False)


class Mix(nn.Module):
    """An attention by its forward only."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        if packed:
            self.a = nn.Linear(D, 3 * D)
        else:
            self.a, self.b, self.c = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.d = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x).chunk(3, -1) if self.packed else (self.a(x), self.b(x), self.c(x))
        return self.d(torch.softmax(a @ b.mT, -1) @ c)  # type: ignore[no-any-return]


class Own(nn.Module):
    """Names that say nothing."""

    class Block(nn.Module):
        def __init__(self, packed: bool, square: bool) -> None:
            super().__init__()
            self.x = Mix(packed)
            self.one = nn.Linear(D, D if square else F)
            self.two = nn.Linear(D if square else F, D)

    def __init__(self, packed: bool = False, square: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(V, D)
        self.steps = nn.ModuleList(self.Block(packed, square) for _ in range(2))
        self.last = nn.Linear(D, V)


def test_names_of_a_library() -> None:
    assert roles(Named()) == {
        "tok_embeddings.weight": "embedding",
        **{
            f"layers.{number}.{name}.weight": found
            for number in range(2)
            for name, found in {
                "attention.wq": "query",
                "attention.wk": "key",
                "attention.wv": "value",
                "attention.wo": "attention_output",
                "feed_forward.w1": "mlp_gate",
                "feed_forward.w2": "mlp_down",
                "feed_forward.w3": "mlp_up",
            }.items()
        },
        "output.weight": "readout",
    }


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_names_that_say_nothing(packed: bool, square: bool) -> None:
    found = roles(Own(packed, square))
    projections = {"a": "query_key_value"} if packed else {"a": "query", "b": "key", "c": "value"}
    block = {**{f"x.{name}": one for name, one in projections.items()}, "x.d": "attention_output"}
    block |= {"one": "mlp_up", "two": "mlp_down"}
    assert found == {
        "table.weight": "embedding",
        **{f"steps.{number}.{name}.weight": one for number in range(2) for name, one in block.items()},
        "last.weight": "readout",
    }


def test_torchs_own_layers() -> None:
    found = roles(nn.Transformer(D, 2, 1, 1, F, batch_first=True))
    assert {name.partition("layers.0.")[2]: one for name, one in found.items()} == {
        "self_attn.in_proj_weight": "query_key_value",
        "self_attn.out_proj.weight": "attention_output",
        "multihead_attn.in_proj_weight": "query_key_value",
        "multihead_attn.out_proj.weight": "attention_output",
        "linear1.weight": "mlp_up",
        "linear2.weight": "mlp_down",
    }


def test_biases_have_the_role_of_their_layer() -> None:
    found = roles_of(Own())
    assert found["last.bias"] is found["last.weight"] is Role.READOUT
    assert found["steps.1.two.bias"] is Role.MLP_DOWN
    rules = Rules(
        [
            Rule(role("readout", bias=True), Ones()),
            Rule(role("readout"), Normal(0.5)),
            Rule(kind("weight") | kind("embedding"), Normal(0.02)),
            Rule("*.bias", Zeros()),
        ]
    )
    plan = zeta.plan(Own(), rules)
    assert plan["last.bias"].initializer == Ones()
    assert plan["last.weight"].initializer == Normal(0.5)
    assert plan["steps.0.two.bias"].initializer == Zeros()


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = linear(D, 4)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"w1": linear(D, F), "w2": linear(F, D), "w3": linear(D, F)}) for _ in range(4)
        )


def test_experts_and_their_router() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"ffn": Experts()})])})
    found = roles(model)
    assert found["layers.0.ffn.gate.weight"] == "router"
    assert found["layers.0.ffn.experts.3.w2.weight"] == "mlp_down"
    assert found["layers.0.ffn.experts.3.w1.weight"] == "mlp_gate"


class Lettered(nn.Module):
    """Experts whose names have the letters of their dimensions, as torchtitan's; all are square."""

    def __init__(self) -> None:
        super().__init__()
        self.w1_EFD, self.w2_EDF, self.w3_EFD = (nn.Parameter(torch.empty(4, D, D)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.bmm(x, self.w1_EFD.transpose(-2, -1)) * torch.bmm(x, self.w3_EFD.transpose(-2, -1))
        return torch.bmm(hidden, self.w2_EDF.transpose(-2, -1))


def test_letters_of_dimensions_are_no_part_of_a_name() -> None:
    found = roles(nn.ModuleDict({"0": nn.ModuleDict({"experts": Lettered()}), "1": linear(D, V)}))
    assert [found[f"0.experts.{name}"] for name in ("w1_EFD", "w2_EDF", "w3_EFD")] == ["mlp_gate", "mlp_down", "mlp_up"]


def test_projections_beside_a_gate_of_the_attention() -> None:
    attention = {f"w_{name}": linear(D, n) for name, n in {"q": D, "k": 4, "v": 4, "g": 2, "out": D}.items()}
    found = roles(nn.ModuleDict({"attention": nn.ModuleDict(attention), "head": linear(D, V)}))
    assert found == {
        "attention.w_q.weight": "query", "attention.w_k.weight": "key", "attention.w_v.weight": "value",
        "attention.w_out.weight": "attention_output", "head.weight": "readout",
    }  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
def test_a_table_that_is_no_embedding_of_torch(tied: bool) -> None:
    class VocabParallelEmbedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(V, D))

    model = nn.ModuleDict({"word_embeddings": VocabParallelEmbedding(), "inner": linear(D, D), "head": linear(D, V)})
    if tied:
        model["head"].weight = model["word_embeddings"].weight
    found = roles(model)
    assert found["word_embeddings.weight"] == "embedding"
    assert tied or found["head.weight"] == "readout"


def test_a_gate_without_experts_is_no_router() -> None:
    assert "router" not in roles(nn.ModuleDict({"ffn": nn.ModuleDict({"gate": linear(D, 4)})})).values()


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = linear(D, D)
        self.lora_A, self.lora_B = linear(D, 2), linear(2, D)


def test_adapters_by_name() -> None:
    model = Named()
    block: Any = model.layers["0"]
    block.attention["wo"] = Adapted()
    found = roles(model)
    assert found["layers.0.attention.wo.lora_A.weight"] == "adapter_a"
    assert found["layers.0.attention.wo.lora_B.weight"] == "adapter_b"
    assert found["layers.0.attention.wo.base_layer.weight"] == "attention_output"


def test_a_tied_output_layer_is_the_readout() -> None:
    model = Own()
    model.last.weight = model.table.weight
    assert roles(model)["last.weight"] == "readout"
    assert roles(model)["table.weight"] == "embedding"


def test_an_image_model() -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
            self.pos_embed = nn.Parameter(torch.zeros(1, 5, D))
            self.patch_embed = nn.Conv2d(3, D, 4, 4)
            self.stem = nn.Conv2d(3, D, 3)
            self.head = nn.Linear(D, 10)

    assert roles(Image()) == {
        "cls_token": "class_token",
        "pos_embed": "position",
        "patch_embed.weight": "patch_embedding",
        "head.weight": "readout",
    }


def test_an_mlp_ends_in_its_readout() -> None:
    assert roles(nn.Sequential(nn.Linear(3, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 2))) == {
        "4.weight": "readout"
    }


def test_wrappers_do_not_show() -> None:
    model = Named()
    for name, block in model.layers.items():
        model.layers[name] = checkpoint_wrapper(block)
    assert roles(model) == roles(Named())


def test_meta_and_parametrized() -> None:
    with torch.device("meta"):
        model = Named()
    nn.utils.parametrizations.weight_norm(model.layers["1"].attention["wo"])  # type: ignore[index]
    assert roles(model)["layers.1.attention.wo.weight"] == "attention_output"


def test_misspelt() -> None:
    with pytest.raises(SpecError, match=r"unknown role 'readuot': .*; did you mean 'readout'\?"):
        role("readuot")


def test_a_role_that_nothing_has() -> None:
    with pytest.raises(PlanError, match=r"rule 1 \(role router\)"):
        zeta.plan(nn.Linear(2, 2), Rules([Rule(Role.ROUTER, Normal(1.0)), Rule("*", Zeros())]))


def test_numbered_layers_of_an_mlp_after_a_norm() -> None:
    net = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, F), nn.GELU(), nn.Dropout(), nn.Linear(F, D))
    model = nn.ModuleList([nn.ModuleDict({"net": net})])
    assert roles(model) == {"0.net.1.weight": "mlp_up", "0.net.4.weight": "mlp_down"}


def test_layer_scales_by_two_parts_of_their_names() -> None:
    scale = nn.Module()
    scale.gamma = nn.Parameter(torch.empty(D))
    model = nn.ModuleDict({"ls1": scale, "block": nn.Module()})
    model["block"].layer_scale_parameter = nn.Parameter(torch.empty(D))
    assert roles(model) == {"ls1.gamma": "layer_scale", "block.layer_scale_parameter": "layer_scale"}


# -- layers ------------------------------------------------------------------------------------------------------------


def places(model: nn.Module, *names: str) -> list[tuple[int | None, int | None]]:
    """Layer and depth of these parameters."""
    found: dict[str, tuple[int | None, int | None]] = {}

    def noted(match: zeta.Match) -> Normal:
        found[match.name] = match.layer, match.depth
        return Normal(1.0)

    zeta.plan(model, Rules([Rule("*", noted)]))
    return [found[name] for name in names]


def test_layers_are_counted_where_the_blocks_are() -> None:
    own = Own()
    assert places(own, "steps.1.two.weight", "last.weight") == [(1, 2), (None, None)]
    wrapped = nn.Sequential(Own(), nn.Linear(V, 3))
    assert places(wrapped, "0.steps.1.two.weight", "0.steps.0.x.d.weight", "1.weight") == [
        *((1, 2), (0, 2)),
        (None, None),
    ]
    flat = nn.Sequential(
        nn.Embedding(V, D), *(Own.Block(True, False) for _ in range(3)), nn.LayerNorm(D), nn.Linear(D, V)
    )
    assert places(flat, "1.two.weight", "3.x.d.weight") == [(0, 3), (2, 3)]
    ensemble = nn.ModuleDict({"members": nn.ModuleList(Own() for _ in range(4))})
    assert places(ensemble, "members.3.steps.1.one.weight") == [(1, 2)]


def test_experts_are_no_layers() -> None:
    for depth in (1, 3):
        layers = [nn.ModuleDict({"x": Mix(True), "ffn": Experts()}) for _ in range(depth)]
        model = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        names = [f"layers.0.ffn.experts.{number}.w2.weight" for number in range(4)]
        assert places(model, *names) == [(0, depth)] * 4


def test_a_stage_keeps_its_numbers_and_does_not_know_how_many_layers_there_are() -> None:
    stage = nn.ModuleDict({"layers": nn.ModuleDict({str(n): Own.Block(True, False) for n in (4, 5, 6)})})
    assert places(stage, "layers.4.two.weight", "layers.6.two.weight") == [(4, None), (6, None)]
    blocks = [*(nn.Identity() for _ in range(4)), *(Own.Block(True, False) for _ in range(2))]
    assert places(nn.ModuleDict({"h": nn.ModuleList(blocks)}), "h.5.two.weight") == [(5, None)]
    flat = nn.Sequential(nn.Dropout(), Own.Block(True, False), Own.Block(True, False))
    assert places(flat, "1.two.weight", "2.x.d.weight") == [(0, 2), (1, 2)]


def branches(depth: int, *, norms: bool = False) -> list[nn.Module]:
    """Attention, MLP, attention, MLP, ..."""
    found: list[nn.Module] = []
    for _ in range(depth):
        mlp = nn.ModuleDict({"mlp": nn.Sequential(linear(D, F), nn.GELU(), linear(F, D))})
        found += [nn.ModuleList([nn.LayerNorm(D), branch]) if norms else branch for branch in (Mix(True), mlp)]
    return found


@pytest.mark.parametrize("norms", [False, True])
def test_neighbours_in_a_list_are_one_layer(norms: bool) -> None:
    model = nn.ModuleDict({"table": nn.Embedding(V, D), "layers": nn.ModuleList(branches(4, norms=norms))})
    inner = ".1" if norms else ""
    names = [f"layers.6{inner}.d.weight", f"layers.7{inner}.mlp.2.weight", f"layers.0{inner}.d.weight"]
    assert places(model, *names) == [(3, 4), (3, 4), (0, 4)]


def test_a_list_that_does_not_repeat_itself_has_no_number_of_layers() -> None:
    attention, mlp = branches(1)
    rows = nn.ModuleList([attention, Mix(True), mlp, *branches(2)])
    assert places(nn.ModuleDict({"layers": rows}), "layers.0.d.weight", "layers.3.d.weight") == [(None, None)] * 2


def blocks(number: int) -> nn.ModuleList:
    return nn.ModuleList(Own.Block(True, False) for _ in range(number))


def test_lists_that_lie_in_each_other_or_follow_each_other_are_counted_through() -> None:
    stages = nn.ModuleDict({"stages": nn.ModuleList(nn.ModuleDict({"blocks": blocks(3)}) for _ in range(4))})
    assert places(stages, "stages.0.blocks.2.two.weight", "stages.3.blocks.1.x.d.weight") == [(2, 12), (10, 12)]
    nested = nn.ModuleDict({"encoder": nn.ModuleList(blocks(3) for _ in range(4))})
    assert places(nested, "encoder.3.2.two.weight") == [(11, 12)]
    two = nn.ModuleDict({"dense_layers": blocks(3), "moe_layers": blocks(5), "head": linear(D, V)})
    assert places(two, "dense_layers.2.two.weight", "moe_layers.0.two.weight") == [(2, 8), (3, 8)]
    pairs = nn.ModuleDict({"attns": nn.ModuleList(Mix(True) for _ in range(3))})
    pairs["ffs"] = nn.ModuleList(branches(3)[1::2])
    assert places(pairs, "attns.2.d.weight", "ffs.1.mlp.2.weight") == [(2, 3), (1, 3)]


def test_numbers_in_words_count_layers_and_those_in_a_block_do_not() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = Mix(True)
            self.mlp = nn.Sequential(linear(D, F), nn.GELU(), linear(F, D))

    for form in ("layer_{}", "block{}", "h{}"):
        model = nn.ModuleDict({form.format(number): Block() for number in range(6)})
        last = form.format(5)
        assert places(model, f"{last}.mlp.2.weight", f"{last}.x.d.weight") == [(5, 6)] * 2
        inside = nn.Sequential(nn.Embedding(V, D), model)
        assert places(inside, f"1.{last}.mlp.2.weight") == [(5, 6)]
    shared = nn.ModuleDict({"table": nn.Embedding(V, D), "block": Block(), "head": linear(D, V)})
    assert places(shared, "block.mlp.2.weight", "block.x.d.weight", "head.weight") == [(0, 1), (0, 1), (None, None)]


def test_stacks_side_by_side_are_counted_apart_and_named_blocks_not_at_all() -> None:
    sides = nn.ModuleDict({"encoder_layers": blocks(4), "dec_blocks": blocks(2)})
    assert places(sides, "encoder_layers.3.two.weight", "dec_blocks.1.two.weight") == [(3, 4), (1, 2)]
    inside = nn.ModuleList(nn.ModuleDict({"x_block": Own.Block(True, False)}) for _ in range(3))
    for layer in inside:
        layer["context_block"] = Own.Block(True, False)
    joint = nn.ModuleDict({"joint": inside})
    assert places(joint, "joint.2.x_block.two.weight", "joint.1.context_block.two.weight") == [(2, 3), (1, 3)]
    first = nn.ModuleDict({"first_block": Own.Block(True, False), "layers": blocks(4)})
    towers = nn.ModuleDict({name: nn.ModuleDict({"layers": blocks(2)}) for name in ("user", "item")})
    several = nn.ModuleDict({f"encoder{number}": nn.ModuleDict({"layers": blocks(2)}) for number in (1, 2)})
    assert places(first, "first_block.two.weight", "layers.3.two.weight") == [(None, None)] * 2
    assert places(towers, "user.layers.1.two.weight") == [(None, None)]
    assert places(several, "encoder1.layers.1.two.weight") == [(None, None)]


def test_a_file_s_residual_flag_divides_by_the_layers_or_says_why_not(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    rule = '[[rules]]\nname = "{}"\ninitializer = {{ name = "Normal", std = 0.02 }}\nresidual = true\n'
    rest = '[[rules]]\nname = "*"\ninitializer = "Zeros"\n'
    model = nn.ModuleDict({"table": nn.Embedding(V, D), "layers": nn.ModuleList(branches(4)), "head": linear(D, V)})
    path.write_text(rule.format("layers.*.d.weight") + rest)
    assert zeta.plan(model, read_rules(path, model))["layers.6.d.weight"].initializer == Normal(0.02) * 8**-0.5
    path.write_text(rule.format("head.weight") + rest)
    with pytest.raises(PlanError, match=r"head\.weight.*lies in no block with an attention.*write the scale"):
        zeta.plan(model, read_rules(path, model))


def test_sublayers_in_a_list_are_one_layer() -> None:
    def block() -> nn.Module:
        ffn = nn.Sequential(linear(D, F), nn.GELU(), linear(F, D))
        return nn.ModuleList([nn.ModuleDict({"attention": Mix(True)}), nn.ModuleDict({"ffn": ffn})])

    for depth in (1, 3):
        model = nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(depth))})
        found = places(model, f"layers.{depth - 1}.1.ffn.2.weight", f"layers.{depth - 1}.0.attention.d.weight")
        assert found == [(depth - 1, depth)] * 2


# -- names that mislead ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated_attn", "rel_attn", "conv_attn", "norm_attention", "attn_pos", "biased_attn"])
def test_an_attention_by_any_name_has_its_output(name: str) -> None:
    parts = {"q_proj": linear(D, D), "k_proj": linear(D, D), "v_proj": linear(D, D), "out_proj": linear(D, D)}
    found = roles(nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({name: nn.ModuleDict(parts)})])}))
    assert found[f"layers.0.{name}.out_proj.weight"] == "attention_output"


@pytest.mark.parametrize("names", [("linear_1", "linear_2"), ("lin_1", "lin_2"), ("fc1", "fc2"), ("proj_1", "proj_2")])
def test_numbered_names_of_an_mlp(names: tuple[str, str]) -> None:
    up, down = names
    found = roles(nn.ModuleDict({"ffn": nn.ModuleDict({up: linear(D, F), down: linear(F, D)}), "head": linear(D, V)}))
    assert (found[f"ffn.{up}.weight"], found[f"ffn.{down}.weight"]) == ("mlp_up", "mlp_down")


def test_a_head_of_several_layers_ends_in_its_readout() -> None:
    for name in ("classifier", "head"):
        model = nn.ModuleDict({name: nn.Sequential(linear(D, F), nn.GELU(), linear(F, V))})
        assert [key for key, one in roles(model).items() if one == "readout"] == [f"{name}.2.weight"]
    parallel = nn.ModuleDict({"class_embed": nn.ModuleList([linear(D, V), linear(D, V)])})
    assert set(roles(parallel).values()) == {"readout"}
    boxes = nn.ModuleDict({"layers": nn.ModuleList([linear(D, D), linear(D, D), linear(D, 4)])})
    detector = nn.ModuleDict({"bbox_embed": nn.ModuleList([boxes]), "score_head": linear(D, V)})
    assert roles(detector) == {"bbox_embed.0.layers.2.weight": "readout", "score_head.weight": "readout"}


def test_the_gate_of_a_shared_expert_is_a_router() -> None:
    parts = {"experts": nn.ModuleList([linear(D, D)]), "gate": linear(D, 4), "shared_expert_gate": linear(D, 1)}
    found = roles(nn.ModuleDict({"mlp": nn.ModuleDict(parts)}))
    assert (found["mlp.gate.weight"], found["mlp.shared_expert_gate.weight"]) == ("router", "router")


def test_an_attention_without_a_module_of_its_own() -> None:
    parts = {"wq": linear(D, D), "wk": linear(D, D), "wv": linear(D, D), "wo": linear(D, D)}
    block = nn.ModuleDict({**parts, "fc1": linear(D, F), "fc2": linear(F, D)})
    found = roles(nn.ModuleDict({"blocks": nn.ModuleList([block])}))
    assert [found[f"blocks.0.{name}.weight"] for name in (*parts, "fc1", "fc2")] == [
        *("query", "key", "value", "attention_output", "mlp_up", "mlp_down")
    ]


def test_a_prompt_encoder_is_no_adapter() -> None:
    assert (
        "adapter" not in roles(nn.ModuleDict({"prompt_encoder": nn.ModuleDict({"embed": nn.Embedding(3, D)})})).values()
    )


def test_the_nearest_configuration() -> None:
    class Configured(nn.Module):
        def __init__(self, initializer_range: float) -> None:
            super().__init__()
            self.config = {"range": initializer_range}
            self.layer = linear(D, D)

    model = nn.ModuleDict({"a": Configured(0.1), "b": nn.ModuleDict({"inner": Configured(0.3)}), "c": linear(D, D)})
    seen: dict[str, Any] = {}

    def noted(match: zeta.Match) -> Normal:
        seen[match.name] = match.config
        return Normal(1.0)

    zeta.plan(model, Rules([Rule("*", noted)]))
    assert seen == {"a.layer.weight": {"range": 0.1}, "b.inner.layer.weight": {"range": 0.3}, "c.weight": None}


def test_the_roles_of_a_model_print_as_a_table() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3, enable_nested_tensor=False)
    found = roles_of(model)
    assert found == dict(found)
    rows = [line.split() for line in str(found).splitlines()]
    assert rows[0] == ["name", "role"]
    assert ["layers.{0..2}.self_attn.out_proj.weight", "attention_output"] in rows
    assert ["layers.{0..2}.linear2.bias", "mlp_down"] in rows
    assert len(rows) == 2 + len(found) // 3
    assert repr(found) == "Roles(24 parameters: query_key_value, attention_output, mlp_up, mlp_down)"
    assert "layers.{0..2}.linear2.bias" in found._repr_html_()
    assert repr(roles_of(nn.LayerNorm(3))) == "Roles(0 parameters: none)"


def test_a_model_without_a_head_whose_layers_have_words_for_names() -> None:
    model = nn.ModuleDict({name: Own.Block(True, False) for name in ("first", "second")})
    found = roles(model)
    assert "readout" not in found.values()
    assert found.get("second.two.weight") == found.get("first.two.weight")


def test_the_second_stream_of_a_joint_attention() -> None:
    """The names of diffusers' Attention with added projections."""

    class Joint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
                setattr(self, name, linear(D, D))
            self.to_out = nn.ModuleList([linear(D, D)])

    found = roles(nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.ModuleDict({"attn": Joint()})])}))
    expected = {"to": ("query", "key", "value"), "add": ("query", "key", "value")}
    for stream, wanted in expected.items():
        end = "" if stream == "to" else "_proj"
        assert [found[f"transformer_blocks.0.attn.{stream}_{each}{end}.weight"] for each in "qkv"] == [*wanted]
    assert found["transformer_blocks.0.attn.to_add_out.weight"] == "attention_output"
    assert found["transformer_blocks.0.attn.to_out.0.weight"] == "attention_output"
