import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["*.test.js"],
    // A test that passes at the second try has found something.
    retry: 0,
    // The suite sets its own time limits where it waits; this one is for everything else.
    testTimeout: 60_000,
  },
})
