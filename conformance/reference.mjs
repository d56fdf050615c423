// The reference server of the protocol, to hold the suite, a client or a benchmark against.
//
//   node reference.mjs [--port N] [--long-poll-timeout SECONDS] [--data-dir DIR] [--subscriptions]
//
// Prints one line with its URL when it accepts connections and stops on SIGTERM.

import { parseArgs } from "node:util"
import { DurableStreamTestServer } from "@durable-streams/server"

const { values } = parseArgs({
  options: {
    port: { type: "string", default: "0" },
    "long-poll-timeout": { type: "string", default: "30" },
    "data-dir": { type: "string" },
    subscriptions: { type: "boolean", default: false },
  },
})

const server = new DurableStreamTestServer({
  port: Number(values.port),
  host: "127.0.0.1",
  longPollTimeout: Number(values["long-poll-timeout"]) * 1000,
  dataDir: values["data-dir"],
  webhooks: values.subscriptions,
})

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => server.stop().finally(() => process.exit(0)))
}

console.log(`reference server listening on ${await server.start()}`)
