"""A forked process, whose torch may wait forever for its parent's threads: found out, and refused only then."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

# A process that forks one child for each case: a call, with the options "one" (the child has one thread), "thread" (it
# calls in a thread that it starts) or "grandchild". It uses torch's threads first where its first argument is "used".
CODE = """
import json, os, signal, sys, tempfile, threading, traceback, warnings
warnings.simplefilter("ignore")
import torch, zeta
from torch import nn
from zeta.initializers import Normal, Orthogonal, Zeros

torch.set_num_threads(1)
small, large = nn.Linear(4, 4), nn.Linear(1024, 1024)
normed = nn.utils.parametrizations.weight_norm(nn.Linear(1024, 1024))  # computes the norms of 1024 rows
torch.set_num_threads(2)
rules = zeta.Rules([zeta.Rule("weight", Normal(0.02)), zeta.Rule("bias", Zeros())])
matrices = zeta.Rules([zeta.Rule("weight", Orthogonal()), zeta.Rule("bias", Zeros())])
if sys.argv[1] == "used":
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


def run(call, options):
    signal.alarm(60)
    if "one" in options:
        torch.set_num_threads(1)
    try:
        if "thread" in options:
            thread = threading.Thread(target=calls[call])
            thread.start(), thread.join()
        else:
            calls[call]()
            calls[call]()
    except zeta.ForkError as error:
        assert "spawn" in str(error) and "set_num_threads(1)" in str(error)
        os._exit(7)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def forked(work):
    child = os.fork()
    if not child:
        work()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


outcomes = []
for call, *options in json.loads(sys.argv[2]):
    if "grandchild" in options:
        outcomes.append(forked(lambda: os._exit(forked(lambda: run(call, options)))))
    else:
        outcomes.append(forked(lambda: run(call, options)))
print(json.dumps(outcomes))
"""
REFUSED, WORKED = 7, 0
#: what the parent did before, what the child does, and what comes of it
CASES: dict[tuple[str, ...], int] = {
    # torch would wait forever
    ("used", "verify"): REFUSED,
    ("used", "check"): REFUSED,
    ("used", "init_ of matrices"): REFUSED,
    ("used", "init_ of a parametrized weight"): REFUSED,
    ("used", "verify", "grandchild"): REFUSED,
    # no threads of torch are needed
    ("used", "init_"): WORKED,
    ("used", "save"): WORKED,
    # torch works on one thread, on a thread that the child started, and where the parent had used no threads
    **{("used", call, option): WORKED for call in ("verify", "check") for option in ("one", "thread")},
    ("unused", "verify"): WORKED,
    ("unused", "check"): WORKED,
    ("unused", "verify", "grandchild"): WORKED,
}


@functools.cache
def outcomes(before: str) -> dict[tuple[str, ...], int]:
    cases = [case for case in CASES if case[0] == before]
    command = [sys.executable, "-c", CODE, before, json.dumps([case[1:] for case in cases])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert done.stderr == ""
    return dict(zip(cases, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_refused_only_where_torch_would_wait_forever(case: tuple[str, ...]) -> None:
    assert outcomes(case[0])[case] == CASES[case]


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
