"""maskcli inspects and debugs attention masks."""

__version__ = "0.1.0"
