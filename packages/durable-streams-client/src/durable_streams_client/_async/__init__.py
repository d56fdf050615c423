"""The async flavour: the source that the sync one is generated from.

``runtime`` and ``connections`` are written by hand in both flavours, because what they hold does
not translate.
"""
