"""Start-up time of commands, before they do anything: python -m benchmarks.startup [--rounds 9]

The reference is the import of LightningCLI alone, which every command except ``lit-talr --help`` needs. Numbers are medians of wall times of whole
processes, in turn, without the first round.
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import lightning.pytorch.cli": ["-c", "import lightning.pytorch.cli"],
    "lit-talr --help": ["-m", "lit_talr", "--help"],
    "lit-talr fit --print_config": ["-m", "lit_talr", "fit", "--print_config", "-c", "configs/experiment/medcalc_cot_1e-6.yaml"],
    "lit-talr report --help": ["-m", "lit_talr", "report", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(parser.parse_args().rounds):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    floor = seconds["import lightning.pytorch.cli"][1:]
    print("| command | s | of the import |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(own / other for own, other in zip(times[1:], floor, strict=True))
        print(f"| `{name}` | {statistics.median(times[1:]):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
