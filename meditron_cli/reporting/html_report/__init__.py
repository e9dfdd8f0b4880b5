"""The HTML report: one page that makes no network request."""
