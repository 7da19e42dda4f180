"""A forked process, whose torch may wait forever for its parent's threads: found out, and refused only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The parent uses torch's threads first where "used" is given, and the child has one thread where "one" is.
CODE = """
import multiprocessing, os, signal, sys, tempfile, threading, time, warnings
warnings.simplefilter("ignore")
import torch, zeta
from torch import nn
from zeta.initializers import Normal, Orthogonal, Zeros

call, options = sys.argv[1], sys.argv[2:]
torch.set_num_threads(1)
small, large = nn.Linear(4, 4), nn.Linear(1024, 1024)
normed = nn.utils.parametrizations.weight_norm(nn.Linear(1024, 1024))  # computes the norms of 1024 rows
torch.set_num_threads(2)
rules = zeta.Rules([zeta.Rule("weight", Normal(0.02)), zeta.Rule("bias", Zeros())])
matrices = zeta.Rules([zeta.Rule("weight", Orthogonal()), zeta.Rule("bias", Zeros())])
if "used" in options:
    torch.zeros(2**22).add_(1)
plan, batch = zeta.plan(large, rules), torch.ones(16, 4)
calls = {
    "verify": lambda: zeta.verify(large, plan, 0),
    "check": lambda: zeta.check(small, batch),
    "init_": lambda: zeta.init_(large, rules, 0),
    "init_ of matrices": lambda: zeta.init_(large, matrices, 0),
    "init_ of a parametrized weight": lambda: zeta.init_(normed, rules, 0),
    "save": lambda: zeta.save(large, plan, tempfile.mkdtemp(), 0),
}


def run():
    signal.alarm(60)
    if "one" in options:
        torch.set_num_threads(1)
    try:
        if "thread" in options:
            failures = []
            thread = threading.Thread(target=lambda: attempt(failures))
            thread.start(), thread.join()
        else:
            calls[call]()
            calls[call]()
    except zeta.ForkError as error:
        assert "spawn" in str(error) and "set_num_threads(1)" in str(error)
        os._exit(7)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def attempt(failures):
    calls[call]()


if "grandchild" in options:
    child = os.fork()
    if not child:
        inner = os.fork()
        if not inner:
            run()
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    child = os.fork()
    if not child:
        run()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
REFUSED, WORKED = "7", "0"


def outcome(call: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, call, *options], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("call", ["verify", "check", "init_ of matrices", "init_ of a parametrized weight"])
def test_refused_where_torch_would_wait_forever(call: str) -> None:
    assert outcome(call, "used") == REFUSED


@pytest.mark.parametrize("call", ["init_", "save"])
def test_what_needs_no_threads_of_torch_works(call: str) -> None:
    assert outcome(call, "used") == WORKED


@pytest.mark.parametrize("call", ["verify", "check"])
@pytest.mark.parametrize("options", [("used", "one"), ("used", "thread"), ()])
def test_not_refused_where_torch_works(call: str, options: tuple[str, ...]) -> None:
    """On one thread; on a thread that the child started; where the parent had used no threads."""
    assert outcome(call, *options) == WORKED


@pytest.mark.parametrize(("options", "expected"), [(("used", "grandchild"), REFUSED), (("grandchild",), WORKED)])
def test_a_child_of_a_child(options: tuple[str, ...], expected: str) -> None:
    assert outcome("verify", *options) == expected


IMPORTED = """
import multiprocessing, os, sys
import torch

def work(results):
    torch.set_num_threads(int(sys.argv[2]))
    import zeta
    model = torch.nn.Linear(1024, 1024, device="meta")
    plan = zeta.plan(model, zeta.Rules([zeta.Rule("*", zeta.initializers.Normal(0.02))]))
    zeta.materialize_(model, plan, 0)
    try:
        results.put(zeta.verify(model, plan, 0).ok)
    except zeta.ForkError:
        results.put("refused")

if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.zeros(2**22).add_(1)
    context = multiprocessing.get_context(sys.argv[1])
    results = context.SimpleQueue()
    process = context.Process(target=work, args=(results,), daemon=True)
    process.start()
    print(results.get())
    process.join()
"""


@pytest.mark.parametrize(
    ("method", "threads", "expected"),
    [("fork", 2, "refused"), ("fork", 1, "True"), ("spawn", 2, "True"), ("forkserver", 2, "True")],
)
def test_multiprocessing_that_imports_in_the_child(method: str, threads: int, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(IMPORTED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, method, str(threads)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == expected
    assert done.stderr == ""


WORKERS = """
import torch, zeta
from torch.utils.data import DataLoader, Dataset

class Models(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, number):
        model = torch.nn.Linear(1024, 256)
        zeta.init_(model, "torch", seed=number)
        plan = zeta.plan(model, "torch")
        return zeta.verify(model, plan, seed=number).ok and zeta.check(torch.nn.Linear(4, 4), torch.randn(8, 4)).ok

torch.set_num_threads(2)
torch.zeros(2**22).add_(1)
print([bool(found) for found in DataLoader(Models(), num_workers=2, multiprocessing_context="fork")])
"""


def test_workers_of_a_data_loader_work() -> None:
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[True, True]"
