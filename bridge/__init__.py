"""The agent: command line, configuration, supervision, sources and identity."""

__version__ = "0.1.0"
