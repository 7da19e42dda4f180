"""The tasks of the commands, with the values of their options; imported when one runs, because this imports torch.

Each task returns whether its result is positive, which decides the exit code.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from zeta import verbs
from zeta.base.escaping import visible
from zeta.command import check as check_command
from zeta.command import doctor as diagnosis
from zeta.command import options
from zeta.command import recipe as recipes
from zeta.command.operands import Building, operands
from zeta.command.printing import bytes_bar, say, say_document, say_json, stdout_for_json, time_bar, width
from zeta.command.requests import CheckOptions, ModelOptions
from zeta.command.scaling.sweeps import sweeps_of
from zeta.errors import UsageError
from zeta.report import plan_differences
from zeta.write.checkpoint import CONFIG, bytes_of, check_folder, files_of, output_path


def init(
    asked: ModelOptions,
    *,
    out: Path,
    seed: str,
    drop_ties: bool | None,
    max_shard_size: str,
    force: bool,
    batch: str | None,
    health: bool,
    as_json: bool,
) -> bool:
    """Write a checkpoint, and end with the fast health check."""
    number = options.parsed_seed(seed)
    most = bytes_of(max_shard_size)
    settings = (CONFIG,) if asked.model.startswith("hf:") else ()
    check_folder(output_path(out, "--out"), force=force, settings=settings)
    with stdout_for_json(as_json):
        built, decided = options.planned(asked)
    if not as_json:
        say(decided.text(width()))
    with bytes_bar(quiet=as_json) as progress:
        report = verbs.save(
            built,
            decided,
            out,
            number,
            max_shard_size=most,
            drop_ties=drop_ties,
            force=force,
            model_name=asked.model,
            progress=progress,
        )
    files = [str(out / name) for name in files_of(out)]
    with stdout_for_json(as_json):
        checked = check_command.after_init(built, decided, number, batch) if health else "--no-check"
    if as_json:
        document = {"plan": msgspec.Raw(decided.to_json().encode()), "report": report.as_dict(), "files": files}
        say_json({**document, "check": check_command.as_data(checked)})
    else:
        for flag in report.flags():
            say(flag)
        say(report.summary)
        say("\n".join(map(visible, files)))
        say(check_command.as_text(checked))
    return report.ok


def check(asked: ModelOptions, request: CheckOptions, *, seed: str, as_json: bool) -> bool:
    """Check a model with the values that ``init`` would write."""
    number = options.parsed_seed(seed)
    with stdout_for_json(as_json):
        built, decided = options.planned(asked)
        sweeps = sweeps_of(asked, request, number, built)
        with time_bar() as progress:
            report = check_command.run(built, decided, number, request, progress, sweeps)
    if as_json:
        say_json(check_command.as_data(report))
    else:
        say(str(report))
        say("\n".join(visible(str(path)) for path in (request.html, request.sarif) if path is not None))
    return report.ok


def plan(asked: ModelOptions, *, as_json: bool) -> bool:
    """Show the plan."""
    with stdout_for_json(as_json):
        _, decided = options.planned(asked)
    if as_json:
        say_document(decided.to_json())
    else:
        say(decided.text(width()))
    return True


def verify(folder: Path, source: Path | None, *, as_json: bool) -> bool:
    """Verify a folder."""
    with bytes_bar(quiet=as_json) as progress:
        result = verbs.verify(folder, progress=progress, source=source)
    if as_json:
        say_json(result.as_dict())
    else:
        say(str(result))
    return result.ok


def diff(
    a: str, b: str, *, kwargs: str, dtype: str | None, cast_buffers: bool, fallback: str | None, as_json: bool
) -> bool:
    """Compare two plans."""
    with stdout_for_json(as_json):
        building = Building(
            kwargs=options.arguments_of(kwargs),
            dtype=options.dtype_of(dtype),
            cast_buffers=cast_buffers,
            fallback=options.fallback_of(fallback),
        )
        one, other = operands(a, b, building)
    difference = plan_differences.diff(one.plan, other.plan, names=(one.label, other.label))
    if as_json:
        say_json(difference.as_dict())
    else:
        say(difference.text(width()))
    return difference.same


def recipe(name: str, model: str | None, *, kwargs: str, given: tuple[str, ...], as_json: bool) -> bool:
    """Show a recipe, and the plan that it makes of a model."""
    if model is None and given:
        raise UsageError(f"--option is for a plan; give the model: zeta recipes show {name} MODEL")
    described = recipes.described(name) if as_json else {}
    text = "" if as_json else recipes.text_of(name)
    if model is not None:
        with stdout_for_json(as_json):
            _, decided = options.planned(ModelOptions(model=model, recipe=name, options=given, kwargs=kwargs))
        described["plan"] = msgspec.Raw(decided.to_json().encode())
        text = f"{text}\n\n{decided.text(width())}"
    if as_json:
        say_json(described)
    else:
        say(text)
    return True


def doctor(*, as_json: bool) -> bool:
    """Show what is installed, and compute the known answers."""
    versions, backends, answers = diagnosis.versions(), diagnosis.backends(), diagnosis.known_answers()
    if as_json:
        say_json({"versions": versions, "backends": backends, "known_answers": answers})
    else:
        for name, value in {**versions, **{f"backend {device}": used for device, used in backends.items()}}.items():
            say(f"{name:18} {value}")
        for name, right in answers.items():
            say(f"{'ok   ' if right else 'WRONG'} {name}")
    return all(answers.values())
