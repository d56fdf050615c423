"""The protocol over HTTP, with no web framework in it."""
