"""The sync flavour: generated from the async one, except ``runtime`` and ``connections``."""
