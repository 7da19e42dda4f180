"""A check restores memory of every kind, whatever a forward pass does to it; a failure in one place stops nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.networks import vectors
from zeta.check import check
from zeta.check.watch import isolation
from zeta.check.watch.isolation import preserved
from zeta.errors import TargetError, ZetaError

BATCH = vectors(8)
# torch's remarks on sparse tensors
pytestmark = pytest.mark.filterwarnings("ignore:Sparse (invariant|CSR|CSC|BSR|BSC):UserWarning")


class Net(nn.Module):
    """The norm is changed by each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.fc(self.norm(x))

    def check_unchanged(self) -> None:
        assert int(self.norm.num_batches_tracked) == 0
        assert torch.equal(self.norm.running_var, torch.ones(8))
        assert float(self.calls) == 0


def quantized(dtype: torch.dtype, scale: float = 0.1) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        return torch.quantize_per_tensor(torch.ones(5), scale, 0, dtype)


def doubled(tensor: Tensor) -> None:
    tensor.add_(tensor)


def tripled(tensor: Tensor) -> None:
    tensor.values().mul_(3)


def joined(tensor: Tensor) -> None:
    tensor.add_(torch.ones(4, 4).to_sparse())


def requantized(tensor: Tensor) -> None:
    tensor.copy_(quantized(tensor.dtype, 0.3))


def zeroed(tensor: Tensor) -> None:
    tensor.untyped_storage().fill_(0)


def freed(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def dense(tensor: Tensor) -> Tensor:
    if tensor.is_quantized:
        return torch.cat([tensor.int_repr().double(), torch.tensor([tensor.q_scale()])])
    if tensor.dtype is torch.float4_e2m1fn_x2:
        return tensor.view(torch.uint8)
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


BUFFERS: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]] = {
    "COO": (lambda: torch.eye(4).to_sparse(), joined),
    "COO with repeated indices": (lambda: torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (4, 4)), joined),
    "complex COO": (lambda: (torch.eye(4) * 1j).to_sparse(), doubled),
    "CSR": (lambda: torch.eye(4).to_sparse_csr(), tripled),
    "CSC": (lambda: torch.eye(4).to_sparse_csc(), tripled),
    "BSR": (lambda: torch.eye(4).to_sparse_bsr(2), tripled),
    "MKLDNN": (lambda: torch.eye(4).to_mkldnn(), doubled),
    "quantized": (lambda: quantized(torch.qint8), requantized),
    "float4": (lambda: torch.full((4,), 37, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), zeroed),
    "strided": (lambda: torch.arange(12.0).view(3, 4).t()[1:], freed),
    "large": (lambda: torch.ones(1000), lambda tensor: tensor.untyped_storage().resize_(16)),
}


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_of_any_kind_comes_back(kind: str, changes: bool) -> None:
    make, change = BUFFERS[kind]

    class Model(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("odd", make())

        def forward(self, x: Tensor) -> Tensor:
            if changes:
                change(self.odd)
            return super().forward(x)

    model = Model()
    buffer, layout = model.odd, model.odd.layout
    check(model, BATCH, level="full", initialize=lambda made: made.fc.reset_parameters())
    model.check_unchanged()
    assert model.odd is buffer
    assert buffer.layout is layout
    assert torch.equal(dense(buffer), dense(make()))


def test_stored_elements_of_a_sparse_buffer_are_measured() -> None:
    model = Net()
    model.register_buffer("adjacency", torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (10**6, 10**6)))
    facts = {one.name: one for one in check(model, BATCH).parameters}
    assert (facts["adjacency"].values.count, facts["adjacency"].values.mean) == (1, 3.0)


def test_sparse_gradients_come_back() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.net = nn.Embedding(10, 8, sparse=True), Net()

        def forward(self, x: Tensor) -> Tensor:
            y = self.net(self.table(x))
            if self.table.weight.grad is not None:
                y.sum().backward(retain_graph=True)
            return y

    model, x = Model(), torch.arange(32) % 10
    model.net.calls.sub_(1)
    model(x).sum().backward()  # training has begun
    model.net.norm.reset_running_stats()
    grad = model.table.weight.grad
    assert grad is not None
    before = grad.to_dense()
    check(model, (x, torch.arange(32) % 4))
    model.net.check_unchanged()
    assert model.table.weight.grad is grad
    assert torch.equal(grad.to_dense(), before)


@pytest.mark.parametrize("level", ["fast", "full"])
def test_a_table_with_sparse_gradients_is_checked_with_its_optimizer(level: Any) -> None:
    """Gradients that were not coalesced stay as they are; what comes after them is restored too."""

    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.bag = nn.Embedding(50, 8, sparse=True), nn.EmbeddingBag(50, 8, sparse=True)
            self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.norm(self.table(x) + self.bag(x[:, None]))))

    model, x, y = Bags(), torch.arange(32) * 7 % 50, torch.arange(32) % 3
    for _ in range(2):
        nn.functional.cross_entropy(model(x), y).backward()
    mean, grad = model.norm.running_mean, model.table.weight.grad
    assert grad is not None
    assert not grad.is_coalesced()
    before = [one.clone() for one in (mean, grad._indices(), grad._values())]
    report = check(model, (x, y), level=level, optimizer=torch.optim.SparseAdam([model.table.weight], lr=1e-3))
    assert [one.update is not None for one in report.parameters if one.name == "table.weight"] == [True]
    after = (model.norm.running_mean, grad._indices(), grad._values())
    assert model.table.weight.grad is grad
    assert not grad.is_coalesced()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def views_in(place: str) -> tuple[type[Net], Tensor]:
    memory = torch.zeros(2, BATCH.shape[0], 8)

    class Cached(Net):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(8, 8)
            views = [memory[0], memory[1]]
            if place == "buffers":
                self.register_buffer("keys", views[0])
                self.register_buffer("values", views[1])
            elif place == "attributes":
                self.keys, self.values = views
            else:
                self.cache = views

        def views(self) -> list[Tensor]:
            return self.cache if place == "a list" else [self.keys, self.values]

        def forward(self, x: Tensor) -> Tensor:
            keys, values = self.views()
            keys[:] = self.map(x)
            return super().forward(keys + values)

    return Cached, memory


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("place", ["buffers", "attributes", "a list"])
def test_views_of_one_memory_come_back(place: str, fails: bool) -> None:
    kind, memory = views_in(place)
    model = kind()
    views: list[Tensor] = [*model.views()]  # type: ignore[operator]
    if fails:
        model.fc.forward = lambda x: 1 / 0  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            check(model, BATCH)
        del model.fc.forward
    else:
        check(model, BATCH, level="full")
    assert (float(model.calls), bool(memory.any())) == (0, False)
    for before, after in zip(views, model.views(), strict=True):  # type: ignore[operator]
        assert after is before
        assert after._base is memory
        assert not after.requires_grad
        assert after.is_leaf
    assert not memory.requires_grad
    model(BATCH).sum().backward()  # as before the check: a graph goes through the memory
    assert memory.requires_grad
    assert model.map.weight.grad is not None


def test_an_expanded_buffer_before_its_base() -> None:
    class Model(Net):
        def __init__(self) -> None:
            super().__init__()
            count = torch.zeros(1)
            self.register_buffer("per_head", count.expand(5))
            self.register_buffer("count", count)

        def forward(self, x: Tensor) -> Tensor:
            self.count.add_(1)
            return super().forward(x) / self.per_head[0]

    model = Model()
    check(model, BATCH)
    model.check_unchanged()
    assert float(model.count) == 0
    assert model.per_head.stride() == (0,)


# -- classes ---------------------------------------------------------------------------------------------------------


def test_a_lazy_model_with_loaded_weights_stays_lazy() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d(), nn.Linear(8, 4))
    model.load_state_dict(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 4)).state_dict())
    check(model, BATCH)
    assert [type(model[0]), type(model[2])] == [nn.LazyLinear, nn.LazyBatchNorm1d]
    model(BATCH)
    assert [type(model[0]), type(model[2])] == [nn.Linear, nn.BatchNorm1d]


def test_a_class_that_a_forward_pass_sets_comes_back() -> None:
    class Later(Net):
        pass

    class First(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.__class__ = Later  # type: ignore[assignment]
            return Net.forward(self, x)

    model = First()
    check(model, BATCH)
    assert type(model) is First


# -- memory that is not there ----------------------------------------------------------------------------------------


def test_memory_that_was_freed_is_never_read() -> None:
    model = Net()
    whole = model.state_dict(keep_vars=True)
    for name in ("fc.weight", "norm.running_mean"):
        storage = whole[name].untyped_storage()
        size = storage.nbytes()
        storage.resize_(size - 1)
        with pytest.raises(TargetError, match=f"freed or made smaller.*\n  - {name}"):
            check(model, BATCH)
        with pytest.raises(TargetError, match=f"{name}: has a storage that was freed or made smaller"):
            zeta.init_(model, "torch", seed=0)
        storage.resize_(size)
    zeta.init_(model, "torch", seed=0)


# -- one step that fails ---------------------------------------------------------------------------------------------


class Everything(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = [torch.zeros(2), torch.Generator()]
        self.register_buffer("adjacency", torch.eye(4).to_sparse())
        self.fc.weight.grad = torch.ones(4, 8)

    def disturb(self) -> None:
        self.eval()
        self.fc.bias.requires_grad_(False)
        self.seen[0].add_(1)
        torch.rand(1, generator=self.seen[1])
        self.seen.append(1)
        self.added = 1
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(1)
        self.fc.weight.register_hook(lambda grad: grad)
        self.fc.weight.grad.add_(1)  # type: ignore[union-attr]
        self.fc.weight.grad = None
        self.adjacency._values().mul_(3)
        self(BATCH)

    def state(self) -> list[Any]:
        tensors = [*self.state_dict().values(), self.seen[0], self.seen[1].get_state(), self.fc.weight.grad]
        return [
            *[tensor if tensor is None else tensor.to_dense().tolist() for tensor in tensors],
            *[parameter.requires_grad for parameter in self.parameters()],
            *[(module.training, sorted(vars(module))) for module in self.modules()],
            len(self.seen),
            bool(self.fc.weight._backward_hooks),
        ]


@pytest.mark.parametrize("error", [ValueError("no more"), KeyboardInterrupt()])
def test_a_step_that_fails_stops_no_other(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    real = isolation._steps
    modules = isolation.modules_held(Everything())
    count = len(list(real(modules, isolation.tensors_held(modules))))
    assert count > 40
    for position in range(count):
        names: list[str] = []

        def broken(*given: Any, position: int = position, names: list[str] = names, **more: Any) -> Iterator[Any]:
            for number, (name, step) in enumerate(real(*given, **more)):

                def failing(step: Any = step) -> None:
                    step()
                    raise error

                names += [name] if number == position else []
                yield name, failing if number == position else step

        monkeypatch.setattr(isolation, "_steps", broken)
        model = Everything()
        before = model.state()
        with pytest.raises((ZetaError, KeyboardInterrupt)) as raised, preserved(model):
            model.disturb()
        assert model.state() == before, names
        if isinstance(error, ValueError):
            assert "could not be restored after the model was run, everything else was" in str(raised.value)
            assert f"  - {names[0]}: ValueError: no more" in str(raised.value)
        else:
            assert raised.value is error
