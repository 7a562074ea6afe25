"""Imports point downward only, and what the house forbids is nowhere."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_talr"

# The rooms from the top floor to the bottom; a file or folder of lit_talr is a room, and imports from rooms further down.
FLOORS = (
    "__main__",
    "cli",
    "sweep",
    "heatmap",
    "diagnose",
    "estimate",
    "report",
    "callbacks",
    "tasks",
    "curriculum",
    "module",
    "training",
    "theory",
    "lab",
    "domains",
    "metrics",
    "checkpoint",
    "modeling",
    "losses",
    "data",
    "kernels",
    "utils",
    "__init__",
)
# Rooms whose files may import these siblings only; the room's own __init__ imports them all.
SIBLINGS = {"callbacks": {"base"}, "losses": {"anchored", "base", "divergence"}}
# What a room never imports, whatever the floors say: names as they are written in full, matched from the start.
FORBIDDEN = {
    "data": r"lit_talr\.(modeling|module|training|checkpoint)\b|peft\b|transformers\..*(Model|ForCausalLM)",
    "metrics": r"lit_talr\.(modeling|losses)\b|transformers\b|peft\b",
    "losses": r"transformers\b|peft\b|lit_talr\.(data|domains|metrics|modeling|module)\b",
    "kernels": r"transformers\b|peft\b|lightning\b",
}
# The script that runs programs which a model wrote, in a process of its own.
RUNS_PROGRAMS = "tasks/run_tests.py"
# Calls that would run code that comes with what they load, unless they are told not to.
LOADS = ("from_pretrained", "from_config", "load_dataset", "LLM")
# Methods of Lightning that take `**kwargs` and are overridden here, and a test's call of a program, which is passed on as it is.
OVERRIDES = {
    ("cli/lightning_cli.py", "_prepare_subcommand_parser"),
    ("cli/lightning_cli.py", "init_parser"),
    ("cli/lightning_cli.py", "instantiate_trainer"),
    ("tasks/run_tests.py", "call"),
    ("training/evaluation.py", "load_from_checkpoint"),
    ("training/evaluation.py", "log"),
}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that is imported, wherever it stands; names for type checking count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def layer_offences(package: Path, file: Path, tree: ast.AST) -> Iterator[str]:
    """Where a file imports upward or sideways."""
    parts = file.relative_to(package).with_suffix("").parts
    room, stem = parts[0], parts[-1]
    if parts == ("__init__",):
        return  # the face, whose imports are for type checkers only: tests/test_face.py
    if room not in FLOORS:
        yield f"lit_talr/{'/'.join(parts)}.py is on no floor: put `{room}` into FLOORS of tests/test_layers.py, below all that import it."
        return
    for line, name in imports(tree):
        place = f"{file.relative_to(package.parent)}:{line}"
        if name.startswith("."):
            yield f"{place}: write the import in full, `lit_talr...` instead of `{name}`."
        words = name.split(".")
        target = words[1] if words[0] == "lit_talr" and len(words) > 1 and words[1] in FLOORS else "__init__"
        if (pattern := FORBIDDEN.get(room)) and re.match(pattern, name):
            yield f"{place}: `{room}` must not know `{name}`; pass what is needed in as an argument."
        elif FLOORS.index(target) < FLOORS.index(room):
            yield f"{place}: `{room}` imports `{name}` from a floor above it; move what both need down, or pass it in."
        elif target == room and room in SIBLINGS and stem != "__init__" and (len(words) < 3 or words[2] not in SIBLINGS[room]):
            yield f"{place}: a file of `{room}` must not import `{name}`; siblings may share only {sorted(SIBLINGS[room])}, or a floor below."


def habit_offences(package: Path, file: Path, tree: ast.AST) -> Iterator[str]:
    """What is forbidden everywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node.args.kwarg:
            name = getattr(node, "name", "lambda")
            if (file.relative_to(package).as_posix(), name) not in OVERRIDES:
                yield f"{file.relative_to(package.parent)}:{node.lineno}: `{name}` takes `**{node.args.kwarg.arg}`; name its arguments."
        if isinstance(node, ast.Call):
            place = f"{file.relative_to(package.parent)}:{node.lineno}"
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec") and file.relative_to(package).as_posix() != RUNS_PROGRAMS:
                yield f"{place}: `{node.func.id}()` runs what others wrote; parse it (`float`, `ast.literal_eval`, `json`)."
            loads = name_of(node.func) in LOADS and name_of(getattr(node.func, "value", node.func)) != "GenerationConfig"  # which holds values alone
            if loads and "trust_remote_code" not in [keyword.arg for keyword in node.keywords]:
                yield f"{place}: `{name_of(node.func)}` needs `trust_remote_code=False`; without it, it may run what others wrote."
            for keyword in node.keywords:
                if keyword.arg in ("shell", "trust_remote_code") and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                    yield f"{place}: `{keyword.arg}` must stay False; it runs what others wrote."


def name_of(function: ast.expr) -> str:
    """The last word of what is called."""
    return getattr(function, "attr", getattr(function, "id", ""))


def offences(package: Path) -> list[str]:
    found: list[str] = []
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += [*layer_offences(package, file, tree), *habit_offences(package, file, tree)]
    return found


def module_name(package: Path, file: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(package: Path) -> list[list[str]]:
    """Groups of files that import each other in a circle, at the top of the file or inside functions."""
    files = {module_name(package, file): file for file in package.rglob("*.py") if file != package / "__init__.py"}
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        names = [found for _, found in imports(ast.parse(file.read_text(encoding="utf-8")))]
        targets = {found if found in files else found.rpartition(".")[0] for found in names}
        graph[name] = {target for target in targets if target in files and target != name}
    ordered = TopologicalSorter(graph)
    try:
        ordered.prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(PACKAGE) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "lit_talr").mkdir()
    (tmp_path / "lit_talr" / "one.py").write_text("def f():\n    from lit_talr.two import g")
    (tmp_path / "lit_talr" / "two.py").write_text("import lit_talr.one")
    assert len(circles(tmp_path / "lit_talr")) == 1


def test_the_package_has_few_rooms_and_no_loose_files() -> None:
    assert sorted(file.stem for file in PACKAGE.glob("*.py")) == ["__init__", "__main__", "module"]
    assert len(FLOORS) <= 23
    assert len((PACKAGE / "module.py").read_text(encoding="utf-8").splitlines()) <= 200


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    texts = {file: file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
    assert [f"{file.relative_to(PACKAGE)}: {line}" for file, text in texts.items() for line in re.findall(r'"""(?:Of|What) .*', text)] == []


def test_the_tests_mirror_the_package() -> None:
    """A folder of tests for each room, and a file in it is named after what it tests."""
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    tests = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert rooms <= tests


def test_the_house_is_in_order() -> None:
    assert (found := offences(PACKAGE)) == [], "\n" + "\n".join(found)


def test_benchmarks_and_pages_run_no_code_of_what_they_load() -> None:
    root = PACKAGE.parent
    files = [file for folder in ("benchmarks", "docs") for file in sorted((root / folder).rglob("*.py"))]
    found = [text for file in files for text in habit_offences(root, file, ast.parse(file.read_text(encoding="utf-8"))) if "trust_remote_code" in text]
    assert files and found == [], "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source", "sentence"),
    [
        ("attic.py", "", "attic.py is on no floor: put `attic`"),
        ("losses/new.py", "from lit_talr.data.encoded import Batch", "must not know `lit_talr.data.encoded.Batch`"),
        ("losses/new.py", "from transformers import AutoTokenizer", "must not know `transformers.AutoTokenizer`"),
        ("losses/new.py", "from lit_talr.losses.talr import TALR", "must not import `lit_talr.losses.talr.TALR`"),
        ("losses/new.py", "from lit_talr.losses import TALR", "must not import `lit_talr.losses.TALR`"),
        ("losses/new.py", "from lit_talr.losses.base import LossStrategy", None),
        ("losses/new.py", "from .base import LossStrategy", "write the import in full"),
        ("losses/__init__.py", "from lit_talr.losses.talr import TALR", None),
        ("data/new.py", "from transformers import AutoModelForCausalLM", "must not know `transformers.AutoModelForCausalLM`"),
        ("data/new.py", "from transformers import AutoTokenizer", None),
        ("data/new.py", "def f():\n    from lit_talr.modeling import backbone", "must not know `lit_talr.modeling.backbone`"),
        ("domains/new.py", "from lit_talr.domains.base import DomainDataModule\nfrom lit_talr.kernels.token_nll import IGNORE_INDEX", None),
        ("callbacks/new.py", "from lit_talr.callbacks.hf_export import HFExport", "must not import `lit_talr.callbacks.hf_export.HFExport`"),
        ("kernels/new.py", "if TYPE_CHECKING:\n    import lit_talr.module", "`kernels` imports `lit_talr.module` from a floor above"),
        ("modeling/new.py", "from lit_talr import __version__", None),
        ("module.py", "def f(**options): ...", "`f` takes `**options`"),
        ("module.py", "f = lambda **options: 0", "`lambda` takes `**options`"),
        ("cli/lightning_cli.py", "def instantiate_trainer(self, **kwargs): ...", None),
        ("metrics/new.py", "eval(answer)", "`eval()` runs what others wrote"),
        ("modeling/new.py", "model.eval()", None),
        ("sweep.py", "subprocess.run(line, shell=True)", "`shell` must stay False"),
        ("modeling/new.py", "AutoConfig.from_pretrained(folder)", "`from_pretrained` needs `trust_remote_code=False`"),
        ("data/new.py", "datasets.load_dataset(name, split=split)", "`load_dataset` needs `trust_remote_code=False`"),
        ("modeling/new.py", "GenerationConfig.from_pretrained(folder)", None),
        ("modeling/new.py", "load(name, trust_remote_code=trust)", "`trust_remote_code` must stay False"),
        ("modeling/new.py", "load(name, trust_remote_code=False)", None),
    ],
)
def test_the_checks_bite(tmp_path: Path, file: str, source: str, sentence: str | None) -> None:
    place = tmp_path / "lit_talr" / file
    place.parent.mkdir(parents=True)
    place.write_text(source)
    found = offences(tmp_path / "lit_talr")
    if sentence is None:
        assert found == []
    else:
        assert len(found) == 1
        assert sentence in found[0]
