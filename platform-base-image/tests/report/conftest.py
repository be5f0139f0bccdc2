from __future__ import annotations

from report_browser import browser, open_report

__all__ = ["browser", "open_report"]
