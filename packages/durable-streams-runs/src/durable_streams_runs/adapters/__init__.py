"""Adapters to other libraries. Each module needs its library, which an extra of its name brings."""
