# %%
from durable_streams_client import AsyncClient

client = AsyncClient("http://127.0.0.1:4437/v1/stream/")
notes = client.stream("notes")
await notes.create(content_type="application/json")

# %% Follow in the background, while other cells run.
import asyncio

seen = []


async def watch():
    async for note in notes.follow().items():
        seen.append(note)
        print(note)


watching = asyncio.create_task(watch())

# %% Each of these prints under the cell above.
await notes.append({"text": "hello"})

# %% Read what is there, into a table if you like: pandas.DataFrame(rows)
rows = await notes.read().read_items()

# %% Stop.
watching.cancel()
await client.aclose()
