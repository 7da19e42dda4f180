"""Memory that a constructor's tensors share with NumPy, where the tensors get another form or another memory."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recorded import recorded
from zeta import Rule, Rules


def _table() -> Any:
    return np.arange(4, dtype=np.float32)


def _by_data(x: Tensor) -> None:
    x.data = torch.full((4,), 9.0)


def _by_set(x: Tensor) -> None:
    x.set_(torch.full((4,), 9.0))


def _by_swap(x: Tensor) -> None:
    torch.utils.swap_tensors(x, torch.full((4,), 9.0))


OTHER_MEMORY = [_by_data, _by_set, _by_swap]


@pytest.mark.parametrize("replace", OTHER_MEMORY)
@pytest.mark.parametrize("way", ["record", "plan", "from_function"])
def test_an_array_that_a_tensor_has_left_is_not_written(way: str, replace: Callable[[Tensor], None]) -> None:
    table = _table()

    def leave() -> Tensor:
        x = torch.from_numpy(table)
        replace(x)
        return x.add_(1)

    def build() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(leave())
        return module

    model: Any = nn.Module()
    model.weight = nn.Parameter(torch.zeros(4))
    if way == "record":
        model, plan = zeta.record(build)
        zeta.materialize_(model, plan, seed=0)
    elif way == "plan":
        zeta.apply_(model, zeta.plan(model, lambda m: m.weight.data.copy_(leave())), seed=0)
    else:
        rule = Rule("weight", zeta.from_function(lambda x: x.copy_(leave())))
        zeta.init_(model, Rules([rule]), seed=0)
    assert np.array_equal(table, _table())
    assert model.weight.tolist() == [10.0] * 4
    build()
    assert np.array_equal(table, _table())


def _by_transposing() -> list[Tensor]:
    array = _table().reshape(2, 2)
    x = torch.from_numpy(array)
    x.t_()
    array += 1
    return [x, x * 2]


def _by_transposing_and_arithmetic() -> list[Tensor]:
    array = np.ones((2, 3), dtype=np.float32)
    x = torch.from_numpy(array)
    x.t_()
    x.mul_(2)
    return [x, torch.tensor(array)]


def _by_another_dimension() -> list[Tensor]:
    array = np.ones((2, 3), dtype=np.float32)
    x = torch.from_numpy(array)
    x.unsqueeze_(0)
    array[:] = 3
    return [x]


def _by_another_size() -> list[Tensor]:
    array = np.ones(6, dtype=np.float32)
    x = torch.from_numpy(array)
    x.resize_(3)
    x.fill_(4)
    return [x, torch.tensor(array)]


def _by_an_array_that_was_left() -> list[Tensor]:
    scratch = np.zeros(4, dtype=np.float32)
    x = torch.from_numpy(scratch)
    x.data = torch.from_numpy(np.ones(4, dtype=np.float32))
    scratch[:] = 7
    return [x]


def _by_reading_an_array_that_was_left() -> list[Tensor]:
    table = _table()
    x = torch.from_numpy(table)
    x.data = torch.full((4,), 9.0)
    x.add_(1)
    return [x, torch.tensor(table)]


FORMS = [
    *(_by_transposing, _by_transposing_and_arithmetic, _by_another_dimension, _by_another_size),
    *(_by_an_array_that_was_left, _by_reading_an_array_that_was_left),
]


def _built(make: Callable[[], list[Tensor]]) -> nn.Module:
    module = nn.Module()
    for number, tensor in enumerate(make()):
        module.register_buffer(f"table{number}", tensor)
    return module


@pytest.mark.parametrize("make", FORMS)
def test_a_tensor_of_another_form_still_shares_its_memory(make: Callable[[], list[Tensor]]) -> None:
    model, _, _ = recorded(_built, make)
    for name, real in _built(make).named_buffers():
        assert torch.equal(model.get_buffer(name), real), name


def test_memory_of_a_tensor_from_outside_is_shared_when_that_tensor_has_left_it() -> None:
    def make(array: Any) -> list[Tensor]:
        outside, x = torch.from_numpy(array), torch.zeros(4)
        with torch.no_grad():
            x.data = outside
            outside.data = torch.full((4,), 5.0)
        x.add_(1)
        return [x, torch.tensor(array)]

    model, _, _ = recorded(_built, lambda: make(_table()))
    for name, real in _built(lambda: make(_table())).named_buffers():
        assert torch.equal(model.get_buffer(name), real), name


def _one_change(chosen: random.Random, tensors: list[Tensor], arrays: list[Any]) -> None:
    """One change of a tensor, of its form or its memory, or of an array."""
    x, y, a = chosen.choice(tensors), chosen.choice(tensors), chosen.choice(arrays)
    match chosen.randrange(16):
        case 0:
            arrays.append(x.numpy())
        case 1:
            a[chosen.randrange(a.shape[0])] = chosen.randrange(9)
        case 2:
            a += 1
        case 3:
            a[...] = float(chosen.choice(arrays).sum() % 97)
        case 4:
            x.mul_(2).remainder_(101)
        case 5:
            x[chosen.randrange(x.shape[0])] += 3
        case 6:
            tensors.append(x[1:] if x.shape[0] > 2 else x.transpose(0, -1))
        case 7 | 8:
            tensors.append(torch.from_numpy(a))
        case 9:
            x.t_() if x.ndim == 2 else x.transpose_(0, -1)
        case 10:
            x.unsqueeze_(-1) if x.ndim < 3 else x.squeeze_()
        case 11:
            if x.is_contiguous():  # else torch leaves open what the elements are
                x.resize_(max(1, x.shape[0] - 1), *x.shape[1:])
        case 12:
            x.data = chosen.choice([y, torch.full((2, 3), 9.0)])
        case 13:
            x.set_(chosen.choice([y, torch.full((3, 2), 8.0)]))
        case 14:
            first, second = torch.from_numpy(a), torch.full((2, 2), 7.0)  # torch swaps none that has a view
            torch.utils.swap_tensors(first, second)
            tensors += [first, second]
        case 15:
            x.numpy()[0] = chosen.randrange(7)


@pytest.mark.parametrize("seed", range(40))
def test_forms_and_memories_at_random(seed: int) -> None:
    """The recorded constructor has the values of the real one, and writes the same to an array from outside."""

    def make(table: Any) -> list[Tensor]:
        chosen = random.Random(seed)
        array = np.arange(12, dtype=np.float32).reshape(3, 4)
        tensors, arrays = [torch.zeros(3, 4), torch.from_numpy(array), torch.from_numpy(table)], [array, table]
        for _ in range(24):
            _one_change(chosen, tensors, arrays)
        return [*(x.clone() for x in tensors), *map(torch.tensor, arrays)]

    theirs, ours = _table().reshape(2, 2), _table().reshape(2, 2)
    real = _built(lambda: make(theirs))
    model, _, _ = recorded(_built, lambda: make(ours))
    for name, tensor in real.named_buffers():
        assert torch.equal(model.get_buffer(name), tensor), name
    assert np.array_equal(theirs, ours)


THERE = torch.arange(4.0)


def _data_of_a_copy(s: Any) -> None:
    start = torch.tensor([1.0, 2.0, 3.0, 4.0])
    s.p = nn.Parameter(THERE.clone())
    s.p.data = start.clone()
    with torch.no_grad():
        s.p.mul_(2)
    s.register_buffer("start", start)


def _data_that_is_shared(s: Any) -> None:
    start = torch.ones(4)
    s.p = nn.Parameter(THERE.clone())
    s.p.data = start
    with torch.no_grad():
        s.p.mul_(2)
        start.add_(1)
        s.p[1:].mul_(2)
    s.register_buffer("start", start.clone())


def _data_without_elements(s: Any) -> None:
    s.p = nn.Parameter(THERE.clone())
    s.p.data = torch.zeros(0)
    s.register_buffer("size", torch.tensor(s.p.numel()))


def _state_of(model: nn.Module) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def _filled(fill: Callable[[Any], None]) -> nn.Module:
    model = nn.Module()
    fill(model)
    return model


@pytest.mark.parametrize("fill", [_data_of_a_copy, _data_that_is_shared, _data_without_elements])
def test_real_tensors_with_the_data_of_others(fill: Callable[[Any], None]) -> None:
    model, _, _ = recorded(_filled, fill)
    assert _state_of(model) == _state_of(_filled(fill))
    assert THERE.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_real_tensor_gets_no_data_without_values() -> None:
    def fill(s: Any) -> None:
        s.p = nn.Parameter(THERE.clone())
        s.p.data = torch.empty(4)

    with pytest.raises(zeta.errors.RecordingError, match="make another parameter of them"):
        zeta.record(_filled, fill)


def _shrunk(s: Any) -> None:
    s.p = nn.Parameter(THERE.clone().resize_as_(torch.zeros(2)).add_(1))
    s.register_buffer("all", THERE.clone().resize_as_(torch.zeros(2, 2)))


def test_a_real_tensor_gets_the_size_of_another() -> None:
    model, _, _ = recorded(_filled, _shrunk)
    assert _state_of(model) == _state_of(_filled(_shrunk))


@pytest.mark.parametrize("name", ["tensor", "known", "storage"])
def test_a_real_tensor_gets_no_memory_of_a_recorded_one(name: str) -> None:
    def fill(s: Any) -> None:
        t = THERE.clone()
        source = torch.ones(4) if name == "known" else torch.randn(4)
        t.set_(source.untyped_storage() if name == "storage" else source)
        s.p = nn.Parameter(t)

    with pytest.raises(zeta.errors.RecordingError, match="set_ would give a real tensor"):
        zeta.record(_filled, fill)


def test_a_real_tensor_does_not_grow() -> None:
    def fill(s: Any) -> None:
        s.p = nn.Parameter(THERE.clone().resize_as_(torch.zeros(8)))

    with pytest.raises(zeta.errors.RecordingError, match="makes a tensor larger"):
        zeta.record(_filled, fill)


def _written_later(s: Any) -> None:
    t = THERE.clone()
    s.weight = nn.Parameter(torch.randn(1, 4))
    s.weight.data = t.view(1, 4)
    t += 2


def _written_by_both(s: Any) -> None:
    t = THERE.clone()
    s.weight, s.other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(4))
    s.weight.data, s.other.data = t[1:3], t
    with torch.no_grad():
        s.weight.fill_(5)
        s.register_buffer("seen", s.other.clone())
        t.mul_(2)
        s.other[2:].add_(1)
        t[0].sub_(1)
    s.register_buffer("t", t.clone())


@pytest.mark.parametrize("fill", [_written_later, _written_by_both])
def test_recorded_tensors_with_the_memory_of_a_real_one(fill: Callable[[Any], None]) -> None:
    model, _, _ = recorded(_filled, fill)
    assert _state_of(model) == _state_of(_filled(fill))


def test_nothing_is_said_of_memory_that_nobody_else_has() -> None:
    def fill(s: Any) -> None:
        s.weight = nn.Parameter(torch.zeros(4))
        s.weight.data = THERE.clone()
        nn.init.normal_(s.weight)

    zeta.record(_filled, fill)


def test_a_real_tensor_gets_no_random_values_by_its_memory() -> None:
    def fill(s: Any) -> None:
        t = THERE.clone()
        s.weight = nn.Parameter(torch.zeros(4))
        s.weight.data = t
        nn.init.normal_(s.weight)
        s.register_buffer("t", t)

    with pytest.warns(zeta.ZetaNotice, match="a copy of it, shares keeps what it had"):
        zeta.record(_filled, fill)


LARGE = (5000, 4096)  #: more than is lent as a whole where a part of it is asked for


def _rows_apart(x: Tensor) -> None:
    first, second = x[:3].numpy(), x[3:6].numpy()
    first[1], second[0] = 5, second[0] + 1
    x.add_(1)
    second[1] = first[0]


def _columns_apart(x: Tensor) -> None:
    even, odd = x[:2, ::2].numpy(), x[:2, 1::2].numpy()
    even[:], odd[:] = 1, 2


def _one_after_the_other(x: Tensor) -> None:
    for row in range(5):
        x[row : row + 3].numpy()[:] += row


def _all_of_it_first(x: Tensor) -> None:
    everything, row = x.numpy(), x[0].numpy()
    everything[0], row[3] = 3, 4


@pytest.mark.parametrize("fill", [_rows_apart, _columns_apart, _one_after_the_other, _all_of_it_first])
def test_parts_of_large_memory(fill: Callable[[Tensor], None]) -> None:
    def build() -> nn.Module:
        module = nn.Module()
        x = torch.zeros(LARGE)
        fill(x)
        module.register_buffer("table", x[:8, :8].clone())
        return module

    model, _, _ = recorded(build)
    assert torch.equal(model.table, build().table)
    assert bool(model.table.any())


@pytest.mark.parametrize(
    "other", [lambda x: x[1:4], lambda x: x[:3, ::2], lambda x: x, lambda x: x[2].view(torch.int32)]
)
def test_parts_of_large_memory_that_overlap_are_refused(other: Callable[[Tensor], Tensor]) -> None:
    def build() -> nn.Module:
        x = torch.zeros(LARGE)
        rows, others = x[:3].numpy(), other(x).numpy()
        rows[2], others[0] = 5, 1
        return nn.Linear(1, 1)

    with pytest.raises(zeta.RecordingError, match=r"test_lending.py:.* has another view of this memory"):
        zeta.record(build)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_storage_that_does_not_get_what_is_drawn_is_noticed() -> None:
    def build(keep: bool) -> nn.Module:
        module, x = nn.Module(), torch.zeros(4)
        storage = x.storage()
        if not keep:
            del storage
        module.weight = nn.Parameter(x.normal_())
        module.scale = nn.Parameter(torch.full((2,), storage[0] if keep else 1.0))
        return module

    with pytest.warns(zeta.ZetaNotice, match=r"test_lending.py:\d+ in .*build: memory .* keeps what it had"):
        zeta.record(build, keep=True)
    zeta.record(build, keep=False)  # a notice would be an error here


@pytest.mark.parametrize(
    "read", [lambda x: x.untyped_storage().tolist(), torch.utils.dlpack.to_dlpack, lambda x: x.untyped_storage()[0]]
)
def test_memory_that_is_read_directly_is_refused_with_the_line(read: Callable[[Tensor], object]) -> None:
    def build() -> nn.Module:
        read(torch.zeros(4))
        return nn.Linear(1, 1)

    with pytest.raises(zeta.RecordingError, match=r"test_lending.py:\d+ in .*: torch says: .* have no memory"):
        zeta.record(build)


def test_an_error_of_the_constructor_stays_its_own() -> None:
    def build() -> nn.Module:
        raise RuntimeError("the meta-learner has no task")

    with pytest.raises(RuntimeError, match="meta-learner") as found:
        zeta.record(build)
    assert not isinstance(found.value, zeta.RecordingError)


def _set_and_written(t: Tensor, s: Any) -> None:
    s.weight.set_(t)
    t.add_(1)


def _set_and_filled(t: Tensor, s: Any) -> None:
    x = torch.zeros(4)
    x.set_(t)
    x.fill_(7)


def _set_to_the_storage(t: Tensor, s: Any) -> None:
    x, y = torch.zeros(2), torch.zeros(4)
    x.set_(t.untyped_storage(), 1, (2,), (2,))
    y.set_(t.untyped_storage(), 0, (4,), (1,))
    x.add_(5)
    s.register_buffer("seen", y * 2)
    t[1] = 0
    y.sub_(1)


def _copied_as_an_object(t: Tensor, s: Any) -> None:
    copy.copy(t).add_(1)


def test_views_are_swapped() -> None:
    def build() -> nn.Module:
        module, x = nn.Module(), torch.zeros(8)
        first, second, other = x[:4], x[4:6], torch.full((3,), 2.0)
        torch.utils.swap_tensors(first, second)
        first.fill_(1)
        torch.utils.swap_tensors(second, other)
        second.add_(3)
        other.add_(4)
        module.weight, module.second, module.other = (nn.Parameter(t) for t in (x, second, other.clone()))
        return module

    model, _, _ = recorded(build)
    assert _state_of(model) == _state_of(build())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("fill", [_set_and_written, _set_and_filled, _set_to_the_storage, _copied_as_an_object])
def test_a_recorded_tensor_gets_the_memory_of_a_real_one(fill: Callable[[Tensor, Any], None]) -> None:
    def build(outside: Tensor) -> nn.Module:
        module: Any = nn.Module()
        with torch.no_grad():
            module.weight = nn.Parameter(torch.zeros(4))
            fill(outside, module)
        module.register_buffer("outside", outside.clone())
        return module

    given, real = THERE.clone(), THERE.clone()
    model, _, _ = recorded(build, given)
    assert _state_of(model) == _state_of(build(real))
    assert torch.equal(given, real)


def _through_data(t: Tensor) -> None:
    t.data.mul_(2)


def _through_numpy(t: Tensor) -> None:
    np.add(t.numpy(), 3, out=t.numpy())


def _through_the_storage(t: Tensor) -> None:
    t.untyped_storage().fill_(0)


def _through_another_parameter(t: Tensor) -> None:
    nn.Parameter(t).data[1:].add_(1)


def _through_a_list(t: Tensor) -> None:
    torch._foreach_add_([t], 1.0)


def _through_an_initializer(t: Tensor) -> None:
    nn.init.constant_(nn.Parameter(t), 3.0)


UNCOUNTED = [_through_data, _through_numpy, _through_another_parameter, _through_a_list]
OTHERS = [_through_the_storage, _through_an_initializer]


def _build(there: Tensor, write: Callable[[Tensor], None]) -> nn.Module:
    """A parameter in the memory of a real tensor, which is written to."""
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(there.shape))
    t = there.clone()
    module.weight.data = t
    write(t)
    return module


@pytest.mark.parametrize("write", UNCOUNTED + OTHERS)
def test_writes_that_torch_does_not_count(write: Callable[[Tensor], None]) -> None:
    model, _, _ = recorded(_build, THERE, write)
    assert _state_of(model) == _state_of(_build(THERE, write))


@pytest.mark.parametrize("write", UNCOUNTED)
def test_writes_that_torch_does_not_count_are_refused_where_memory_is_large(write: Callable[[Tensor], None]) -> None:
    with pytest.raises(zeta.RecordingError, match=r"test_lending.py:\d+ in .*build: .*not seen in time"):
        zeta.record(_build, torch.arange(300_000.0), write)


def test_large_memory_of_a_real_tensor_is_followed_where_torch_counts() -> None:
    there = torch.arange(300_000.0)

    def build() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(there.shape))
        t = there.clone()
        module.weight.data = t
        t.mul_(2)
        module.weight.data[1:].add_(1)
        t[0] = 7
        return module

    model, _, _ = recorded(build)
    assert torch.equal(model.weight, build().weight)


def test_memory_of_an_inference_tensor_is_taken_and_not_written() -> None:
    with torch.inference_mode():
        fixed = torch.arange(4.0)

    def build(write: bool) -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(4))
        module.weight.data = fixed
        if write:
            fixed.numpy()[0] = 5
        return module

    model, _, _ = recorded(build, False)
    assert torch.equal(model.weight, torch.arange(4.0))
    with pytest.raises(zeta.RecordingError, match="inference tensor"):
        zeta.record(build, True)


@pytest.mark.parametrize("turned", [torch.conj, lambda v: v.conj().imag, torch._neg_view, lambda v: v.mH])
def test_a_real_tensor_gets_no_view_that_conjugates_or_negates(turned: Callable[[Tensor], Tensor]) -> None:
    like = turned(torch.zeros(3, 1, dtype=torch.complex64)).resolve_conj().resolve_neg()

    def build() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(like.clone())
        module.weight.data = turned(torch.complex(torch.ones(3, 1), torch.arange(3.0)[:, None]))
        return module

    with pytest.raises(zeta.RecordingError, match=r"resolve_conj\(\).resolve_neg\(\)"):
        zeta.record(build)


def _then_written_by_torch(t: Tensor, weight: Tensor, s: Any) -> None:
    t.numpy()[0] = 3
    weight.data.mul_(2)


def _then_read(t: Tensor, weight: Tensor, s: Any) -> None:
    t.data.mul_(2)
    s.register_buffer("seen", weight.data * 1)
    t.add_(1)


def _there_and_back(t: Tensor, weight: Tensor, s: Any) -> None:
    before = t[:5].clone()
    t.data[:5] = 1
    s.register_buffer("seen", weight.data * 1)
    t.data[:5] = before


@pytest.mark.parametrize("size", [8, 300_000])
@pytest.mark.parametrize("write", [_then_written_by_torch, _then_read, _there_and_back])
def test_writes_that_are_not_counted_come_before_what_is_recorded(write: Callable[..., None], size: int) -> None:
    there = torch.arange(float(size))

    def build() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(size))
        t = there.clone()
        module.weight.data = t
        write(t, module.weight, module)
        return module

    if size > 8:
        with pytest.raises(zeta.RecordingError, match="not seen in time"):
            zeta.record(build)
        return
    model, _, _ = recorded(build)
    assert _state_of(model) == _state_of(build())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("of", [Tensor.untyped_storage, Tensor.storage])
def test_memory_that_only_a_storage_still_holds_is_watched(of: Callable[[Tensor], Any]) -> None:
    def build() -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(4))
        t = THERE.clone()
        storage = of(t)
        module.weight.data = t
        del t
        storage.fill_(0)
        return module

    model, _, _ = recorded(build)
    assert torch.equal(model.weight, build().weight)
