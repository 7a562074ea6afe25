"""``lit-talr diagnose``: reads a short Standard run, recommends a remedy."""

from pathlib import Path

from lit_talr.diagnose.rule import advise
from lit_talr.diagnose.run import read_facts
from lit_talr.diagnose.show import as_values, print_diagnosis
from lit_talr.utils.files import write_json


def diagnose(run: Path, json: Path | None = None) -> None:
    """Recommend a remedy from one or two epochs of Standard with ``--data.held_out 0.2`` (found on one model family, lab only): ``lit-talr diagnose RUN``.

    Counts the unseen tokens that the base model finds hard (p < .2), and those of them that are still hard at the end of the run. Where these are many, and
    the base finds them unlikely, they speak for TALR. The whole rule is lit_talr/diagnose/rule.py.

    Args:
        run: The folder of the short run.
        json: The file for the numbers and the recommendation; diagnosis.json in the run's folder where it is left out.

    Raises:
        ValueError: For a folder that is no run, a run of another loss than Standard, one without token_probability.parquet, without rows held out, without
            a whole epoch, with another threshold than .2, and with too few hard tokens.
    """
    facts = read_facts(run)
    advice = advise(facts)
    print_diagnosis(run, facts, advice)
    write_json(run / "diagnosis.json" if json is None else json, as_values(run, facts, advice))
