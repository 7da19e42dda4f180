"""What is connected to what: networks that are wired wrong are found, and their twins that are wired right are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.sick import Build, Case
from tests.helpers.wiring import WIRED_RIGHT, WIRED_WRONG, Through
from zeta.check import CheckReport, check
from zeta.check.watch.criteria.calls import LossCall
from zeta.check.watch.wiring.targets import offsets_of

pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor", "ignore:None of the inputs have")


def checked(build: Build, **options: Any) -> CheckReport:
    torch.manual_seed(1)
    model, batch, *rest = build()
    return check(model, batch, **(rest[0] if rest else {}), **options)


def shown(report: CheckReport) -> list[str]:
    return [f"{f.rule.id} {f.severity.value} {f.parameter or f.layer}: {f.message}" for f in report.findings]


@pytest.mark.parametrize("case", WIRED_WRONG, ids=lambda case: case.name)
def test_what_is_wired_wrong_is_found_and_nothing_else_is_said_of_it(case: Case) -> None:
    report = checked(case.build)
    found = [(f.rule.id, f.severity.value) for f in report.findings if f.rule.id != "Z903" or case.rule == "Z903"]
    assert (case.rule, case.severity) in found, (shown(report), report.skipped)
    assert case.where is None or case.where in {f.parameter or f.layer for f in report.findings}, shown(report)
    assert {rule for rule, severity in found if severity != "note"} <= {case.rule}, shown(report)


@pytest.mark.parametrize("name", WIRED_RIGHT)
def test_what_is_wired_right_is_not(name: str) -> None:
    report = checked(WIRED_RIGHT[name])
    assert report.ok, shown(report)
    assert [line for line in shown(report) if line.startswith("Z9") and " note " not in line] == []


def test_a_plain_consequence_is_folded_under_its_cause() -> None:
    torch.manual_seed(1)
    model, batch = named("everything_in_a_list").build()
    (finding,) = check(model, batch).findings
    assert finding.rule.id == "Z901"
    assert [one.rule for one in finding.consequences] == ["Z503"]
    model, batch = named("a_difference_of_equals").build()
    (finding,) = check(model, batch).findings
    assert finding.rule.id == "Z905"
    assert [one.rule for one in finding.consequences] == ["Z506", "Z506"]


def named(name: str) -> Case:
    return next(case for case in WIRED_WRONG if case.name == name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("layers_in_a_list", "layers[0].bias of shape (16,), layers[0].weight of shape (16, 8)"),
        ("a_layer_made_in_forward", "made anew in each forward pass"),
        ("an_optimizer_of_another_copy", "it has 4 tensors of something else"),
        ("a_function_that_drops_vectors", "the function leaves them out"),
        ("a_comparison", "> in the model cuts the graph"),
        ("an_argmax", "argmax() in the model cuts the graph"),
        ("a_list", ".tolist() in the model cuts the graph"),
        ("an_item", ".item() in the model cuts the graph"),
        ("an_array", ".numpy() in the model cuts the graph"),
        ("a_loss_made_of_a_number", ".item() in the loss cuts the graph"),
        ("a_reentrant_checkpoint_of_the_input", "a reentrant checkpoint whose inputs need no gradient in first"),
        ("a_difference_of_equals", "samples become equal in the model"),
        ("a_norm_over_one_feature", "samples become equal in 3"),
        ("dropout_of_everything", "dropout with p=1 in 1"),
        ("a_softmax_over_the_batch", "in the code of the model, before one of its modules"),
        ("a_recurrent_network_over_the_batch", "in lstm"),
        ("no_mask", "in the code of the model"),
        ("labels_that_are_shifted_twice", "2 tokens ahead"),
    ],
)
def test_a_message_names_the_place_and_the_cause(name: str, text: str) -> None:
    case = named(name)
    messages = [finding.message for finding in checked(case.build).findings if finding.rule.id == case.rule]
    assert any(text in message for message in messages), messages


def test_infinities_of_a_mask_do_not_hide_that_samples_mix() -> None:
    def masked(mean: Any) -> CheckReport:
        torch.manual_seed(1)
        model = Through(lambda h: h - mean(h))
        model.register_forward_hook(
            lambda _, __, y: y.masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
        )
        return check(model, torch.randn(16, 8))

    assert "Z907" in {finding.rule.id for finding in masked(lambda h: h.mean(0)).findings}
    report = masked(lambda h: h.mean(1, keepdim=True))
    assert "Z907" not in {finding.rule.id for finding in report.findings} | {rule for rule, _ in report.skipped}


@pytest.mark.parametrize(("kept", "offsets"), [(12, {1}), (3, {1}), (1, set())])
def test_targets_of_a_few_tokens_are_compared_but_not_of_very_few(kept: int, offsets: set[int]) -> None:
    tokens = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[:, -1] = targets[:, : 12 - kept] = -100
    assert offsets_of(tokens, [LossCall("cross_entropy", torch.zeros(48, 50), targets.flatten(), {})]) == offsets


@pytest.mark.parametrize("case", WIRED_WRONG, ids=lambda case: case.name)
def test_a_finding_is_suppressed_by_its_id(case: Case) -> None:
    report = checked(case.build, suppress=[case.rule])
    assert case.rule not in {finding.rule.id for finding in report.findings}
    assert case.rule in {finding.rule.id for finding in report.suppressed}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a_graph_with_edges", "the inputs do not share a first dimension"),
        ("a_graph_with_an_adjacency_matrix", "an input relates each sample to each"),
        ("a_sequence_first_model", "a module takes the sequence first"),
        ("similarities_of_all_pairs", "no output has one row for each sample"),
    ],
)
def test_where_samples_cannot_be_compared_it_is_said_why(name: str, reason: str) -> None:
    skipped = dict(checked(WIRED_RIGHT[name]).skipped)
    assert all(reason in skipped[rule] for rule in ("Z905", "Z907", "Z908", "Z909"))


class Choosy(nn.Module):
    """Takes whole batches alone, and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.passes, self.norm = nn.Linear(8, 4), 0, nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        y = self.norm(self.fc(x))
        if len(x) < 16:
            raise ValueError("too few")
        return y


def state_of(model: nn.Module) -> list[Any]:
    modes = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    return [*modes, *((name, tensor.clone()) for name, tensor in model.state_dict().items())]


def same(before: list[Any], after: list[Any]) -> bool:
    return all(
        torch.equal(one[1], other[1]) if isinstance(one[1], Tensor) else one == other
        for one, other in zip(before, after, strict=True)
    )


def test_a_model_that_refuses_two_samples_is_checked_without() -> None:
    torch.manual_seed(1)
    model = Choosy()
    before = state_of(model)
    report = check(model, torch.randn(16, 8))
    assert "ValueError: too few" in dict(report.skipped)["Z907"]
    assert same(before, state_of(model))
    assert model.passes == 0


@pytest.mark.parametrize("case", WIRED_WRONG, ids=lambda case: case.name)
def test_further_passes_leave_the_model_and_random_numbers_alone(case: Case) -> None:
    torch.manual_seed(1)
    model, batch, *rest = case.build()
    before, random = state_of(model), torch.get_rng_state()
    if case.name != "a_layer_made_in_forward":  # it draws
        check(model, batch, **(rest[0] if rest else {}))
        assert torch.equal(torch.get_rng_state(), random)
    assert same(before, state_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_out_of_sight_come_back_each_of_them() -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms, self.fc = [nn.BatchNorm1d(8), nn.BatchNorm1d(8)], nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norms[1](self.norms[0](x)))

    torch.manual_seed(1)
    model = Norms()
    check(model, torch.randn(32, 8) + 1)
    assert [float(norm.running_mean.abs().sum()) for norm in model.norms] == [0.0, 0.0]


def test_a_sharded_model_is_not_run_on_two_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    import zeta.check.examine as examine

    monkeypatch.setattr(examine, "any_sharded", lambda _: True)
    torch.manual_seed(1)
    report = check(*named("a_softmax_over_the_batch").build())
    assert dict(report.skipped)["Z907"] == "the model is sharded"
    assert "Z907" not in {finding.rule.id for finding in report.findings}


# -- the truth -------------------------------------------------------------------------------------------------------


def trained(build: Build, steps: int = 40) -> tuple[nn.Module, dict[str, Tensor], Any]:
    """The model after some steps of its optimizer, or of Adam, and its parameters before."""
    torch.manual_seed(1)
    model, batch, *rest = build()
    options = rest[0] if rest else {}
    loss = options.get("loss") or (lambda output, given: F.cross_entropy(output, given[1]))
    optimizer = options.get("optimizer") or torch.optim.Adam(model.parameters(), lr=1e-2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    x = batch[0] if isinstance(batch, tuple) else batch
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), batch).backward()
        optimizer.step()
    return model, before, x


_STILL = [
    *("a_head_that_was_replaced_later", "biases_left_out", "an_optimizer_of_another_copy"),
    *("a_comparison", "an_argmax", "a_rounding", "a_list", "an_item", "an_array", "a_tensor_made_again"),
    "a_reentrant_checkpoint_of_the_input",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", _STILL)
def test_what_is_said_to_get_nothing_does_not_move_in_training(name: str) -> None:
    model, before, _ = trained(named(name).build)
    where = named(name).where
    assert where is not None
    assert torch.equal(before[where], dict(model.named_parameters())[where])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["a_norm_over_one_feature", "a_norm_of_one_feature_by_hand", "an_unused_input", "tokens_that_are_not_read"],
)
def test_an_output_that_is_said_to_be_constant_stays_so_in_training(name: str) -> None:
    model, _, x = trained(named(name).build)
    assert float((model(x) - model(x)[:1]).detach().abs().max()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("layers_in_a_module_list", "all_parameters", "a_straight_through_estimator", "a_read_out_of_zeros"),
        *("branches_and_read_out_of_zeros", "scales_of_zero", "a_reentrant_checkpoint_of_a_hidden_layer"),
    ],
)
def test_all_that_is_wired_right_moves_in_training(name: str) -> None:
    model, before, _ = trained(WIRED_RIGHT[name])
    assert [key for key, one in model.named_parameters() if torch.equal(one, before[key])] == []


def test_two_samples_that_are_alike_by_chance_say_nothing_of_the_others() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[0].bias.zero_()
    x = torch.randn(64, 8).abs()
    x[torch.arange(64) != 20] *= -1  # these end at the ReLU, as equal ones
    assert "Z905" not in {finding.rule.id for finding in check(model, x).findings}


@pytest.mark.parametrize("seed", range(3))
def test_units_that_are_off_for_the_whole_batch_do_not_make_an_output_constant_for_other_parameters(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    with torch.no_grad():
        model[2].bias.fill_(-1.0)
        model[2].weight.abs_().neg_()
    assert {finding.rule.id for finding in check(model, torch.randn(16, 8)).findings} == {"Z506"}


class NoSlope(torch.autograd.Function):
    """The identity, with the backward pass that ``slope`` is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Any) -> Tensor:
        ctx.slope = slope
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return ctx.slope(gradient), None


def test_a_backward_of_ones_own_that_returns_zero_is_found() -> None:
    torch.manual_seed(0)
    model = Through(lambda x: NoSlope.apply(x.tanh(), torch.zeros_like))  # type: ignore[no-untyped-call]
    report = check(model, (torch.randn(32, 8), torch.arange(32) % 4))
    assert [(f.rule.id, f.severity.value, f.parameter) for f in report.findings] == [("Z506", "fail", "first.weight")]


def test_a_backward_of_ones_own_may_return_no_gradient() -> None:
    torch.manual_seed(0)
    model = Through(lambda x: NoSlope.apply(x.tanh(), lambda _: None))  # type: ignore[no-untyped-call]
    report = check(model, (torch.randn(32, 8), torch.arange(32) % 4))
    assert [(f.rule.id, f.severity.value, f.parameter) for f in report.findings] == [("Z502", "fail", "first.weight")]
