"""``python -m lit_talr`` and ``lit-talr``."""

import sys

from lit_talr import __version__

COMMANDS = {
    "fit": "train; every option is a key of a YAML file (-c) or typed (--model.optimizer.lr 1e-6)",
    "validate": "the loss of a model or checkpoint on the validation rows",
    "test": "generate responses to the test rows, save and score them",
    "sweep": "many runs: remedies, rates, seeds",
    "report": "runs on one page: what each gained on its domain and lost in general",
    "curriculum": "how hard the tokens of runs are, epoch by epoch",
    "heatmap": "a page of texts, each token coloured by its probability, base and tuned",
    "merge": "Wise-FT: interpolate a model with its base model; or average several",
    "export": "a checkpoint of any strategy as a Hugging Face folder",
    "demo": "a small study in a few minutes, on a CPU, without a download",
}
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
    if words in ([], ["-h"], ["--help"]):
        print(OVERVIEW)
    elif words == ["--version"]:
        print(f"lit-talr {__version__}")
    else:
        from lit_talr.cli.command_line import main as run
        from lit_talr.modeling.strategies import end_process

        try:
            run()
        except SystemExit as end:
            if isinstance(end.code, int):
                end_process(end.code)
            raise
        end_process()


if __name__ == "__main__":
    main()
