"""Many runs as one trade-off: tables, figures for a paper, and a page that works offline."""

from lit_talr.report.command import parse_report, report

__all__ = ["parse_report", "report"]
