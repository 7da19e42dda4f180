"""Recurrent networks that saturate, forget, or explode inside of torch's modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.helpers.sick import sick


class Reader(nn.Module):
    """Classifies sequences by the last step's output."""

    def __init__(self, kind: Any, inputs: int = 8, width: int = 32, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(inputs, width, batch_first=True, **options)
        self.head = nn.Linear(self.rnn(torch.zeros(1, 2, inputs))[0].shape[-1], 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def sequences(steps: int = 40, width: int = 8, count: int = 16) -> Any:
    return torch.randn(count, steps, width), torch.arange(count) % 4


@sick("Z407", "rnn")
def lstm_of_raw_numbers() -> Any:
    """Inputs in hundreds, such as prices."""
    x, y = sequences()
    return Reader(nn.LSTM), (500 * x, y)


@sick("Z407", "rnn")
def rnn_of_unit_normal_weights() -> Any:
    model = Reader(nn.RNN)
    for name, parameter in model.rnn.named_parameters():
        nn.init.normal_(parameter, std=5.0 if "weight" in name else 0.1)
    return model, sequences()


@sick("Z407", "rnn")
def gru_with_large_biases() -> Any:
    model = Reader(nn.GRU)
    nn.init.constant_(model.rnn.bias_ih_l0[64:], 5.0)
    return model, sequences()


@sick("Z407", "rnn", "fail")
def lstm_with_closed_output_gates() -> Any:
    model = Reader(nn.LSTM)
    nn.init.constant_(model.rnn.bias_hh_l0[96:], -9.0)
    return model, sequences()


@sick("Z408", "rnn", "warn")
def lstm_that_forgets() -> Any:
    """The sign of the forget bias is wrong, and the other gates hardly carry anything."""
    model = Reader(nn.LSTM)
    nn.init.constant_(model.rnn.bias_ih_l0[32:64], -5.0)
    nn.init.normal_(model.rnn.weight_hh_l0, std=0.02)
    return model, sequences()


@sick("Z408", "rnn", "warn")
def rnn_with_a_tiny_recurrent_weight() -> Any:
    model = Reader(nn.RNN)
    nn.init.normal_(model.rnn.weight_hh_l0, std=1e-3)
    return model, sequences()


@sick("Z408", "rnn", "warn")
def gru_that_writes_nothing() -> Any:
    model = Reader(nn.GRU)
    nn.init.constant_(model.rnn.bias_ih_l0[32:64], 9.0)
    return model, sequences()


@sick("Z409", "rnn")
def relu_rnn_that_explodes() -> Any:
    """He's std, made for the inputs of a plain layer."""
    model = Reader(nn.RNN, nonlinearity="relu", width=64)
    nn.init.kaiming_normal_(model.rnn.weight_hh_l0, nonlinearity="relu")
    with torch.no_grad():
        model.rnn.weight_hh_l0.mul_(2.0)
    return model, sequences(60)


@sick("Z409", "rnn")
def identity_times_two() -> Any:
    model = Reader(nn.RNN, nonlinearity="relu")
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(2 * torch.eye(32))
    return model, sequences(60)


@sick("Z409", "rnn")
def a_chaotic_rnn() -> Any:
    model = Reader(nn.RNN, width=128)
    nn.init.normal_(model.rnn.weight_hh_l0, std=4 / 128**0.5)
    nn.init.normal_(model.rnn.weight_ih_l0, std=0.05)
    return model, sequences(100)
