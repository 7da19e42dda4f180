"""Inside of torch's recurrent modules: what is run again agrees with torch, and healthy ones have no finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.helpers.sick_recurrent import Reader, sequences
from zeta.check import check
from zeta.check.facts.evidence import Sequences
from zeta.check.measure import recurrent
from zeta.check.measure.tensors import read, subjects_of, tensor_facts
from zeta.check.watch.batches import call_of
from zeta.check.watch.probe import probe
from zeta.resolve.slots import walk

INSIDE = ("Z407", "Z408", "Z409")


def found(model: nn.Module, batch: Any) -> list[tuple[str, str]]:
    return [(one.rule.id, one.message) for one in check(model, batch).findings if one.rule.id in INSIDE]


def chrono() -> Reader:
    """Memories of up to 200 steps (Tallec & Ollivier 2018)."""
    model = Reader(nn.LSTM)
    with torch.no_grad():
        model.rnn.bias_ih_l0.zero_(), model.rnn.bias_hh_l0.zero_()
        model.rnn.bias_ih_l0[32:64] = torch.log(1 + 198 * torch.rand(32))
        model.rnn.bias_ih_l0[:32] = -model.rnn.bias_ih_l0[32:64]
    return model


def forget_one() -> Reader:
    model = Reader(nn.LSTM)
    nn.init.constant_(model.rnn.bias_ih_l0[32:64], 1.0)
    nn.init.orthogonal_(model.rnn.weight_hh_l0)
    return model


def identity() -> Reader:
    """IRNN (Le et al. 2015)."""
    model = Reader(nn.RNN, nonlinearity="relu")
    nn.init.eye_(model.rnn.weight_hh_l0)
    nn.init.normal_(model.rnn.weight_ih_l0, std=0.01)
    nn.init.zeros_(model.rnn.bias_ih_l0), nn.init.zeros_(model.rnn.bias_hh_l0)
    return model


def orthogonal() -> Reader:
    model = Reader(nn.RNN)
    nn.init.orthogonal_(model.rnn.weight_hh_l0)
    return model


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Reader(nn.LSTM),
    "gru": lambda: Reader(nn.GRU),
    "rnn": lambda: Reader(nn.RNN),
    "relu": lambda: Reader(nn.RNN, nonlinearity="relu"),
    "deep": lambda: Reader(nn.LSTM, num_layers=3, dropout=0.2),
    "both ways": lambda: Reader(nn.GRU, num_layers=2, bidirectional=True),
    "projected": lambda: Reader(nn.LSTM, width=64, proj_size=16),
    "without biases": lambda: Reader(nn.GRU, bias=False),
    "chrono": chrono,
    "forget one": forget_one,
    "identity": identity,
    "orthogonal": orthogonal,
    "wide": lambda: Reader(nn.LSTM, width=256),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_recurrent_network_has_no_finding(name: str) -> None:
    torch.manual_seed(1)
    model = HEALTHY[name]()
    for steps in (2, 40, 200):
        assert found(model, sequences(steps)) == []


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", HEALTHY)
def test_it_is_run_as_torch_runs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model: Any = HEALTHY[name]()
    x = torch.randn(2, 7, 8)
    slots = walk(model)
    seen = probe(model, slots, call_of(model, x), None)
    subjects = subjects_of(slots, None)
    tensors = tensor_facts(subjects, read(subjects, seen.gradients, 0.0), seen, frozenset())
    outputs: list[Tensor] = []
    monkeypatch.setattr(recurrent, "_run", _kept(recurrent._run, outputs))
    got = recurrent.recurrent(seen.sequences, tensors)
    directions = 2 if model.rnn.bidirectional else 1
    assert len(got) == directions * model.rnn.num_layers
    last = torch.cat([y.flip(0) if number else y for number, y in enumerate(outputs[-directions:])], -1)
    with torch.no_grad():
        expected = model.eval().rnn(x)[0].transpose(0, 1)
    torch.testing.assert_close(last.float(), expected, rtol=1e-4, atol=1e-5)


def _kept(run: Any, outputs: list[Tensor]) -> Any:
    def running(weights: Any, given: Tensor, sequences: Sequences) -> Any:
        result = run(weights, given, sequences)
        outputs.append(result[1])
        return result

    return running


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(len(x), 0, -1).clamp(2, x.shape[1])
        packed, _ = self.rnn(pack_padded_sequence(x, lengths, batch_first=True))
        return self.head(pad_packed_sequence(packed, batch_first=True)[0][:, 0])


def test_packed_sequences_are_looked_at_too() -> None:
    torch.manual_seed(1)
    x, y = sequences(20)
    assert found(Packed(), (x, y)) == []
    assert {rule for rule, _ in found(Packed(), (500 * x, y))} == {"Z407"}


def test_a_message_names_the_gate_and_the_radius() -> None:
    torch.manual_seed(1)
    model = Reader(nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(2 * torch.eye(32))
    ((rule, message),) = found(model, sequences(60))
    assert rule == "Z409"
    assert message.startswith("a change of this RNN's state grows by a factor of 1.99 per step, by e^41 over 60 steps")
    assert message.endswith("the spectral radius of its recurrent weight is 2")


def test_a_radius_is_that_of_the_eigenvalues() -> None:
    torch.manual_seed(1)
    for _ in range(5):
        weight = torch.randn(40, 40, dtype=torch.float64)
        expected = float(torch.linalg.eigvals(weight).abs().max())
        assert recurrent._radius(weight, None) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
def test_what_saturates_learns_worse() -> None:
    def left(scale: float) -> float:
        torch.manual_seed(1)
        model = Reader(nn.LSTM)
        x = torch.randn(64, 20, 8)
        y = (x[:, -3:, 0].sum(1) > 0).long()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(300):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(scale * x), y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert left(1.0) < 0.1
    assert left(500.0) > 2 * left(1.0)
