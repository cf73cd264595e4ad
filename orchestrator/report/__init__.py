"""Maps, tables and the HTML page of a sweep: `write_report` for all of it, `summary` for the paper's table as data."""

from orchestrator.report.tables import summary
from orchestrator.report.write import write_report

__all__ = ["summary", "write_report"]
