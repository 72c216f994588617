// Turns: never more at once than there are, in the order they were asked for, and given back after a failure.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Turns } from "../../services/ingestor/turns.ts";

describe("turns", () => {
  it("are never more at once than there are, and everybody gets one in order", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.record({ ticks: fc.nat(4), fails: fc.boolean() }), { maxLength: 30 }),
        async (most, works) => {
          const turns = new Turns(most);
          const began: number[] = [];
          let running = 0;
          const results = await Promise.allSettled(
            works.map(({ ticks, fails }, index) =>
              turns.run(async () => {
                began.push(index);
                expect(++running).toBeLessThanOrEqual(most);
                for (let tick = 0; tick < ticks; tick++) await Promise.resolve();
                running--;
                if (fails) throw new Error("no");
                return index;
              }),
            ),
          );
          expect(began).toEqual(works.map((_, index) => index));
          expect(results.map(({ status }) => status)).toEqual(
            works.map(({ fails }) => (fails ? "rejected" : "fulfilled")),
          );
        },
      ),
    );
  });
});
