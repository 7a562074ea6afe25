"""Many runs as one trade-off: tables, figures for a paper, and a page that works offline."""

from lit_talr.report.command import report, report_words

__all__ = ["report", "report_words"]
