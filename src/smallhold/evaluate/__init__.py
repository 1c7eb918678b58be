"""How good a bundle is: quality with intervals, calibration, speed and size, as JSON, a table and one page."""

from smallhold.evaluate.bootstrap import Interval, bootstrap_interval, paired_difference
from smallhold.evaluate.report import render_report, write_report
from smallhold.evaluate.report_folder import write_report_folder
from smallhold.evaluate.result import Result
from smallhold.evaluate.tables import format_table
from smallhold.evaluate.verdict import Verdict, verdict

__all__ = [
    "Interval",
    "Result",
    "Verdict",
    "bootstrap_interval",
    "format_table",
    "paired_difference",
    "render_report",
    "verdict",
    "write_report",
    "write_report_folder",
]
