"""Types, rules and the storage interface of the Durable Streams Protocol, without any I/O."""

__version__ = "0.1.0"
