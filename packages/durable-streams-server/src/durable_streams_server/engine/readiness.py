"""Says whether an engine serves now, and if not, why.

A task of the engine probes the store about twice a second, so that the answer is true within two
seconds of a fault and costs nothing to those who ask.
"""

import asyncio
import logging
from typing import Final

import msgspec

from durable_streams_core.entities import Refused
from durable_streams_core.store import Store
from durable_streams_server.engine.upkeep import LogPace

log = logging.getLogger("durable_streams_server.engine")

PROBE_SECONDS: Final = 0.5
"""Time between two probes of the store."""
SILENT_SECONDS: Final = 1.0
"""A probe that is not answered for so long counts as a fault."""
_GRACE_SECONDS: Final = 0.1
"""An answer that came while the event loop was busy is taken all the same."""


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests should be sent here. ``code`` is a stable name of the state, ``reason`` a
    sentence for people, empty if it is ready.
    """

    code: str
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether the store takes writes, and the engine neither starts nor is about to stop."""
        return self.code == "ready"

    @property
    def status(self) -> int:
        """The HTTP status that says so to a load balancer: 200 or 503."""
        return 200 if self.ready else 503

    @property
    def body(self) -> bytes:
        """The state as JSON: ``status``, which is ready or unready, with code and reason."""
        if self.ready:
            return b'{"status":"ready"}'
        return msgspec.json.encode({"status": "unready", "code": self.code, "reason": self.reason})


READY: Final = Readiness("ready")
STARTING: Final = Readiness("starting", "The server is starting: its store is not open yet.")
DRAINING: Final = Readiness("draining", "The server is about to stop; send requests elsewhere.")
STOPPED: Final = Readiness("stopped", "The server has stopped.")
_SILENT: Final = Refused(
    "store-silent", f"The store has not answered for more than {SILENT_SECONDS:.0f} second."
)
_BROKEN: Final = Refused("store-failed", "The store failed when it was probed; see the log.")


class StoreProbe:
    """What keeps a store from taking commits, as of the last probe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._paces: dict[str, LogPace] = {}
        """Of each kind of fault, so that one which repeats does not hide another."""
        self._logged = False
        self.fault: Refused | None = None
        """Why commits would be refused; None if they would be stored."""

    def start(self) -> None:
        """Probe from now on. A store that is always able to commit is not asked."""
        if type(self._store).probe is not Store.probe:
            self._task = asyncio.create_task(self._probe_for_ever())

    async def stop(self) -> None:
        """Probe no more; safe to call again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self.fault = None

    async def _probe_for_ever(self) -> None:
        while True:
            asked = asyncio.create_task(self._ask())
            try:
                if not await _ended(asked, SILENT_SECONDS) and not await _ended(
                    asked, _GRACE_SECONDS
                ):
                    self._note(_SILENT)
                self._note(await asked)
            finally:
                asked.cancel()
            await asyncio.sleep(PROBE_SECONDS)

    async def _ask(self) -> Refused | None:
        try:
            return await self._store.probe()
        except Exception:
            if self.fault is not _BROKEN:
                log.exception("the store failed when it was probed")
            return _BROKEN

    def _note(self, fault: Refused | None) -> None:
        before, self.fault = self.fault, fault
        if fault is not None and (before is None or before.code != fault.code):
            pace = self._paces.setdefault(fault.code, LogPace())
            if pace.is_due(asyncio.get_running_loop().time()):
                self._logged = True
                log.warning("not ready (%s): %s", fault.code, fault.message)
        elif fault is None and before is not None and self._logged:
            self._logged = False
            log.warning("ready again: the store takes commits")


async def _ended(task: asyncio.Task[Refused | None], seconds: float) -> bool:
    done, _ = await asyncio.wait([task], timeout=seconds)
    return bool(done)
