"""docs/remedies.md says what the code says."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_the_losses_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_remedies", ROOT / "docs" / "make_remedies.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "remedies.md").read_text(encoding="utf-8") == module.page(), "run `make docs`"
    assert {loss.__name__ for loss in module.classes()} == set(module.configs()), "every loss has a file in configs/loss"
