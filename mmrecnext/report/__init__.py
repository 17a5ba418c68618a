"""A page about an evaluation, to be opened in a browser: ``tools/test.py --report``."""

from mmrecnext.report.recorder import ReportHook, check_report

__all__ = ['ReportHook', 'check_report']
