"""``lit-talr sweep``: its options, and which points they ask for."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import ClosedUnitInterval

from lit_talr.sweep.guide import run_guide
from lit_talr.sweep.identity import PACKAGE, find_file
from lit_talr.sweep.points import Parse, list_points, parse_configs
from lit_talr.sweep.space import BASE, MERGES, read_space, refuse_reserved
from lit_talr.sweep.stored import leave_out_stored
from lit_talr.sweep.workers import Plan, run_points
from lit_talr.utils.errors import check_least
from lit_talr.utils.own_options import OwnOptions

DESCRIPTION = """Rates x remedies x seeds: each trial is a `lit-talr fit` and a `lit-talr test`. All words that are not listed below go to each of them as they
are: -c FILE, --key value. The same command again continues: it skips what is done, resumes from checkpoints and tries again what failed.
Started several times, on several machines, over one folder and storage, it shares the trials out. docs/sweep.md says how a space is written."""


def options() -> OwnOptions:
    """The parser of the sweep's own options."""
    parser = OwnOptions(prog="lit-talr sweep", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--space", required=True, metavar="FILE", help="What is swept over, in YAML.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="For the runs, one folder each; several machines share it.")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="Points that run at once on this machine; 1 unless given.")
    parser.add_argument("--storage", metavar="URL", help="Optuna's storage; a journal file in the folder unless given.")
    parser.add_argument("--budget", metavar="general_drop=0.02", help="Find the best setting whose general score drops by no more, by validation, and test it.")
    parser.add_argument("--stored", type=Path, metavar="FOLDER", help="Of an earlier report: what it has of these points is not run again.")
    parser.add_argument("--same-code", "--same_code", action="append", default=[], metavar="KEY", help="Other code whose stored numbers are taken too.")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="Print every command, run nothing and write nothing.")
    return parser


def sweep(words: Sequence[str], parse: Parse) -> None:
    """Run a sweep.

    Args:
        words: Words of the command line, without ``sweep``.
        parse: Gives the configuration that ``fit`` reads from its words.

    Raises:
        ValueError: For bad input, and, when all else is done, for points that failed.
    """
    given, common = options().parse_known_args(list(words))
    refuse_reserved(common, "sweep")
    check_least("--workers", given.workers, 1)
    if (given.out / "config.yaml").exists() or (given.out / "checkpoints").exists():
        raise ValueError(f"`--out`: {given.out} is the folder of one run; name one that is new, or that holds a sweep.")
    budget = None if given.budget is None else read_budget(given.budget)
    space = read_space(find_space(given.space))
    if budget is not None and given.stored is not None:
        raise ValueError("`--budget` chooses by the validation scores of runs, which a report does not have for each; leave out `--stored`.")
    if given.same_code and given.stored is None:
        raise ValueError("`--same-code` is about stored points; give `--stored`, or leave it out.")
    configs = parse_configs(space, common, parse)
    general = all("GeneralScore" in str(config.trainer.callbacks) or "LMEval" in str(config.trainer.callbacks) for config in configs.values())
    if budget is not None and not general:
        raise ValueError("`--budget` needs the general score of every trial; give a configuration with one, such as -c configs/eval/skills.yaml.")
    extra = [] if budget is None else ["--trainer.callbacks+=GeneralBudget", f"--trainer.callbacks.general_drop={budget:g}"]
    points = list_points(space, common, extra, given.out, configs)
    points = points if given.stored is None else leave_out_stored(points, given.stored, given.same_code)
    plan = Plan(space, common, given.out, given.workers, given.storage, budget, points, general)
    if given.dry_run:
        print_commands(plan)
    elif budget is None and points:
        run_points(plan, plan.points, tested=True)
    elif budget is not None:
        run_guide(plan, budget)


def find_space(name: str) -> Path:
    """The file of that name, or else the one shipped with the package."""
    if (file := find_file(name)) is not None:
        return file
    raise ValueError(f"`--space`: there is no file {name}, neither here nor among those shipped in {PACKAGE / 'configs'}.")


def read_budget(text: str) -> float:
    name, _, value = text.partition("=")
    try:
        if name == "general_drop":
            return ClosedUnitInterval(value)
    except ValueError:
        pass
    raise ValueError(f"`--budget` must be general_drop=NUMBER with a number in [0, 1], such as general_drop=0.02, got {text!r}.")


def print_commands(plan: Plan) -> None:
    """Print every command as it can be typed."""
    trials = [point for point in plan.points if point.is_trial]
    for point in plan.points if plan.budget is None else trials:
        print("\n".join([f"# {point.name}", *(point.lines() if plan.budget is None else point.lines()[:1])]))
    count = Counter(point.remedy for point in plan.points)
    others = f", {count[BASE]} base model(s), {sum(count[name] for name in MERGES.values())} merge(s)"
    print(f"{len(trials)} trial(s){others if plan.budget is None else '; then the best within the budget is tested, and its base model'}. Nothing was run.")
