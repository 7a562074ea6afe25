"""``python -m lit_talr`` and ``lit-talr``."""

import re
import signal
import sys
import threading

from lit_talr import __version__
from lit_talr.cli.closed_pipe import outlive_readers
from lit_talr.cli.rank_variables import explain_variables

COMMANDS = {
    "fit": "train; every option is a key of a YAML file (-c) or typed (--model.optimizer.lr 1e-6)",
    "validate": "the loss of a model or checkpoint on the validation rows",
    "test": "generate responses to the test rows, save and score them",
    "estimate": "memory and time of a run, and the GPUs that it fits, before it",
    "sweep": "many runs: remedies, rates, seeds",
    "report": "runs on one page: what each gained on its domain and lost in general",
    "curriculum": "how hard the tokens of runs are, epoch by epoch",
    "diagnose": "which remedy a short Standard run speaks for",
    "heatmap": "a page of texts, each token coloured by its probability, base and tuned",
    "merge": "Wise-FT, LiNeS: interpolate a model with its base model; or average several",
    "export": "a checkpoint of any strategy as a Hugging Face folder",
    "demo": "a small study in a few minutes, on a CPU, without a download",
}
LONG = ("fit", "validate", "test", "sweep", "demo", "merge", "export")
"""Commands whose work is not what they print."""
INTERRUPTED = 128 + signal.SIGINT
OVERVIEW = "\n".join(
    [
        "usage: lit-talr COMMAND ...",
        "",
        "Fine-tune language models on a domain without losing their general abilities.",
        "",
        *(f"  {name:<12}{text}" for name, text in COMMANDS.items()),
        "",
        "lit-talr COMMAND --help lists its options; --model.loss.help TALR those of a class.",
        "lit-talr --version; --debug with any command shows the traceback of an error.",
    ]
)


def main() -> None:
    """Runs the command line of this process."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    outlive_readers("lit-talr: nobody reads the output any more; the work goes on without it." if does_work(words) else "")
    if sentence := explain_variables():
        sys.exit(f"lit-talr: {sentence}")
    if words in ([], ["-h"], ["--help"]):
        print(OVERVIEW)
    elif words == ["--version"]:
        print(f"lit-talr {__version__}")
    else:
        run_command()


def does_work(words: list[str]) -> bool:
    """Whether a command line does more than to print."""
    return bool(words) and words[0] in LONG and not any(re.match(r"-h|--(help|print_config|dry|[\w.]+\.help\b)", word) for word in words)


def run_command() -> None:
    """Runs a command, and ends the process: with 130 where Ctrl-C or SIGINT ended the command, as shells and schedulers expect."""
    leave_errors_to_commands()
    try:
        from lit_talr.cli.command_line import main as run

        run()
    except KeyboardInterrupt:
        print("lit-talr: interrupted.", file=sys.stderr)
        status: object = INTERRUPTED
    except SystemExit as end:
        status = INTERRUPTED if isinstance(end.__context__, KeyboardInterrupt) else end.code  # Lightning exits with 1 then
    else:
        status = 0
    strategies = sys.modules.get("lit_talr.modeling.strategies")  # not yet there where the imports were interrupted
    if strategies is None or not isinstance(status, int):
        sys.exit(status)  # type: ignore[arg-type]
    strategies.end_process(status)


def leave_errors_to_commands() -> None:
    """Prints no traceback of a thread that hands its error on to the command, as TensorBoard's does on a full disk."""
    otherwise = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is None or getattr(failure.thread, "exception", None) is not failure.exc_value:
            otherwise(failure)

    threading.excepthook = report


if __name__ == "__main__":
    main()
