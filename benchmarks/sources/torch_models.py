"""torch's modules, as torch's own tests construct them."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import nn
from torch.testing._internal import common_modules, common_nn

from benchmarks.sources import Candidate, Source

#: of one name
MOST = 24


@functools.cache
def constructions() -> dict[str, Candidate]:
    """All constructions that differ by name, and a number where a name stands for several."""
    found: dict[str, Candidate] = {}
    seen: set[str] = set()

    def add(name: str, class_name: str, build: functools.partial[nn.Module]) -> None:
        if (text := f"{build.func} {build.args} {build.keywords}") in seen:
            return
        seen.add(text)
        number = 1
        while (full := name if number == 1 else f"{name} ({number})") in found:
            number += 1
        if number > MOST:
            return
        found[full] = class_name, build

    for test in (*common_nn.module_tests, *common_nn.get_new_module_tests()):
        name = test.get("fullname") or "_".join(filter(None, (test.get("module_name"), test.get("desc"))))
        class_name = test.get("module_name") or name
        constructor = test.get("constructor") or getattr(nn, class_name)
        arguments = test.get("constructor_args", ())
        add(name, class_name, functools.partial(constructor, *arguments))
    for info in common_modules.module_db:
        with torch.random.fork_rng(devices=[]):
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
            )
        for given in inputs:
            arguments, options = given.constructor_input.args, given.constructor_input.kwargs
            name = "_".join(filter(None, (info.name.replace("nn.", ""), given.desc)))
            add(
                f"{name} of module_db",
                info.module_cls.__name__,
                functools.partial(info.module_cls, *arguments, **options),
            )
    return found


def candidates(name: str) -> Iterator[Candidate]:
    """The construction of this name."""
    yield constructions()[name]


SOURCE = Source(
    title="torch",
    what="The constructions of torch's own tests of modules (`module_tests`, `new_module_tests` and `module_db` of "
    f"`torch.testing._internal`), at most {MOST} of one name,",
    noun="construction",
    names=lambda: list(constructions()),
    candidates=candidates,
)
