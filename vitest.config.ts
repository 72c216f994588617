// Three projects: `unit` needs nothing but Node (and skips, saying why, what needs a tool), `engine` needs Pulumi's
// CLI, `integration` needs Docker.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: "unit",
          include: ["test/**/*.test.ts"],
          exclude: ["test/integration/**", "test/engine/**"],
          testTimeout: 60_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          name: "engine",
          include: ["test/engine/**/*.test.ts"],
          // Each run of the engine has a process for every one of the stack's eleven providers.
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
      {
        test: {
          name: "integration",
          include: ["test/integration/**/*.test.ts"],
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
          // The steps of one stack's life: what a failed one leaves says nothing about the next.
          bail: 1,
        },
      },
    ],
  },
});
