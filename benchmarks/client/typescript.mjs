// The npm client `@durable-streams/client`, measured; see run.py.

import { randomBytes } from "node:crypto"
import { createRequire } from "node:module"
import path from "node:path"
import { pathToFileURL } from "node:url"

const [base, directory] = process.argv.slice(2)
const resolved = createRequire(path.join(directory, "x.js")).resolve("@durable-streams/client")
const { DurableStream, IdempotentProducer, stream } = await import(pathToFileURL(resolved))

function message(size) {
  const value = { id: 123456, role: "assistant", text: "" }
  value.text = "x".repeat(size - JSON.stringify(value).length)
  return value
}

function spread(times) {
  times.sort((a, b) => a - b)
  return [times[times.length >> 1], times[Math.floor(times.length * 0.99)]]
}

const fresh = () =>
  DurableStream.create({
    url: base + randomBytes(4).toString("hex"),
    contentType: "application/json",
  })

const result = {}

{
  const handle = await fresh()
  const value = JSON.stringify(message(100))
  const times = []
  for (let i = 0; i < 1000; i++) {
    const start = performance.now()
    await handle.append(value)
    times.push(performance.now() - start)
  }
  result.append_ms = spread(times)
}

for (const [size, count] of [
  [100, 1_000_000],
  [1000, 200_000],
]) {
  let best = 0
  for (let turn = 0; turn < 2; turn++) {
    const handle = await fresh()
    const value = message(size)
    let failed = 0
    const producer = new IdempotentProducer(handle, `bench-${turn}`, { onError: () => failed++ })
    const start = performance.now()
    for (let i = 0; i < count; i++) producer.append(JSON.stringify(value))
    await producer.flush()
    const rate = (count / (performance.now() - start)) * 1000
    await producer.close()
    if (failed === 0) best = Math.max(best, rate)
  }
  result[`producer_${size}`] = best
}

{
  let best = 0
  for (let turn = 0; turn < 5; turn++) {
    const start = performance.now()
    let offset = "-1"
    let size = 0
    for (let done = false; !done; ) {
      // A read without `live` fetches one page.
      const response = await stream({ url: base + "100mb", offset, live: false })
      size += (await response.body()).length
      offset = response.offset
      done = response.upToDate
    }
    if (size !== 100_000_000) throw new Error(`only ${size} bytes`)
    best = Math.max(best, size / 1e3 / (performance.now() - start))
  }
  result.catch_up = best
}

{
  const handle = await fresh()
  const value = JSON.stringify(message(100))
  const response = await handle.stream({ live: "sse" })
  let arrived
  response.subscribeJson(async (batch) => {
    if (batch.items.length > 0) arrived()
  })
  const times = []
  for (let turn = 0; turn < 510; turn++) {
    const event = new Promise((resolve) => (arrived = resolve))
    const start = performance.now()
    await handle.append(value)
    await event
    if (turn >= 10) times.push(performance.now() - start)
  }
  result.round_trip_ms = spread(times)
}

console.log(JSON.stringify(result))
process.exit(0)
