"""Invented rows in the columns of ESCI's published examples, joined with their products."""

from pathlib import Path
from typing import Any

import datasets

NUM_QUERIES = {"train": 12, "test": 4}
TEXTS = ("product_title", "product_brand", "product_color", "product_bullet_point", "product_description")


def esci_row(split: str, query: int, product: int) -> dict[str, Any]:
    """Query and product by number; the label is that of the product."""
    number = {"train": 0, "test": 1000}[split] + 10 * query + product
    return {
        "example_id": number,
        "query": f"{split} lamp {query}",
        "query_id": {"train": 0, "test": 100}[split] + query,
        "product_id": f"B{number:09}",
        "product_locale": "us",
        "esci_label": "ESCI"[product % 4],
        "small_version": query % 2,
        "large_version": 1,
        "split": split,
        "product_title": f"Lamp number {number}",
        "product_brand": "Riverby" if product % 2 else None,
        "product_color": "Black",
        "product_bullet_point": "Bright\nSmall",
        "product_description": "A lamp that shines. " * 10,
        "rationale": f"The query asks for lamp {query}; the product is lamp {number}.",
    }


def esci_rows(split: str) -> list[dict[str, Any]]:
    return [esci_row(split, query, product) for query in range(NUM_QUERIES[split]) for product in range(4)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    datasets.Dataset.from_list(rows).to_parquet(path)
    return str(path)


def write_esci(folder: Path, **changed: Any) -> list[str]:
    """Files of rows; gives the options that name them. The third training row is ``changed``."""
    folder.mkdir(parents=True, exist_ok=True)
    train = esci_rows("train")
    train[2].update(changed)
    return ["--data.train", write_rows(folder / "train.parquet", train), "--data.test", write_rows(folder / "test.parquet", esci_rows("test"))]
