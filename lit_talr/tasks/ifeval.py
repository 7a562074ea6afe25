"""The harness's checks for IFEval; the import fails where NLTK's sentence data is missing, instead of fetching it."""

import nltk

try:
    nltk.data.find("tokenizers/punkt_tab")
except LookupError as error:
    raise LookupError("NLTK's sentence data is not installed: `python -m nltk.downloader punkt_tab`") from error

from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results

__all__ = ["agg_inst_level_acc", "process_results"]
