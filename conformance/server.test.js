// The official suite against the server at CONFORMANCE_URL, which run.py has started.

import { runConformanceTests } from "@durable-streams/server-conformance-tests"

const { CONFORMANCE_URL, CONFORMANCE_LONG_POLL_MS } = process.env

if (!CONFORMANCE_URL) {
  throw new Error("CONFORMANCE_URL is not set: start this suite with conformance/run.py")
}

runConformanceTests({
  baseUrl: CONFORMANCE_URL,
  longPollTimeoutMs: Number(CONFORMANCE_LONG_POLL_MS ?? 500),
  subscriptions: true,
})
