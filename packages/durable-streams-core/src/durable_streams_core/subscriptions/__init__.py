"""Subscriptions: durable cursors that wake workers (§6, §7), as pure code.

A subscription is an entity under ``__ds/subscriptions/``, stored through the same commits as
streams. Its configuration is its birth, its lease and its cursors are fields, and its next timer is
its deadline.

* :mod:`~durable_streams_core.subscriptions.globs`: which streams a pattern means
* :mod:`~durable_streams_core.subscriptions.records`: what is kept, and what a request asks for
* :mod:`~durable_streams_core.subscriptions.leases`: the lease and generation machine, a table
* :mod:`~durable_streams_core.subscriptions.operations`: every change, decided on a draft
* :mod:`~durable_streams_core.subscriptions.keys`: the keys that sign webhooks and tokens
* :mod:`~durable_streams_core.subscriptions.members`: which process drives which subscriptions
"""
