"""Stores that come with the server: in memory, and files in one directory."""
