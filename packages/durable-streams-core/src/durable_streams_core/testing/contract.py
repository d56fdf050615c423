"""The whole contract of a store, made of its parts."""

from durable_streams_core.testing.commits import Commits
from durable_streams_core.testing.guards import Guards
from durable_streams_core.testing.lifetime import Lifetime
from durable_streams_core.testing.listing import Listing
from durable_streams_core.testing.races import Races
from durable_streams_core.testing.reading import Reading
from durable_streams_core.testing.resends import Resends
from durable_streams_core.testing.timelines import Timelines
from durable_streams_core.testing.watching import Watching


class StoreContract(
    Guards, Commits, Resends, Reading, Listing, Watching, Races, Timelines, Lifetime
):
    """Every promise of :mod:`~durable_streams_core.store` and
    :mod:`~durable_streams_core.entities` that can be proven through the interface.

    Provide :meth:`make_store`; provide :meth:`reopen` where data outlives the store and
    :meth:`second_store` where several share it. Set ``patience`` for a store that is slow to tell.
    """
