import { describe, expect, it } from "vitest";
import { LoopShare, sliceMs } from "../../services/common/loop-share.ts";

/** An event loop whose clock and turns are the test's. */
function loop() {
  let now = 0;
  const turns: (() => void)[] = [];
  const share = new LoopShare(
    () => now,
    (callback) => turns.push(callback),
  );
  return {
    share,
    work: (ms: number) => (now += ms),
    now: () => now,
    turn: async () => {
      for (let i = 0; i < 50; i++) await Promise.resolve();
      turns.shift()?.();
      for (let i = 0; i < 50; i++) await Promise.resolve();
    },
    idle: () => turns.length === 0,
  };
}

describe("the event loop's share", () => {
  it("is no more than a slice and one piece of work a turn, however many work at once", async () => {
    const { share, work, now, turn, idle } = loop();
    const done: string[] = [];
    const worker = async (name: string, pieces: number, ms: number): Promise<void> => {
      for (let piece = 0; piece < pieces; piece++) {
        work(ms);
        await share.pause();
      }
      done.push(name);
    };
    const all = Promise.all(["a", "b", "c"].map((name) => worker(name, 40, 3)));
    let turns = 0;
    do {
      const before = now();
      await turn();
      // Before the first one each worker has begun when it came.
      if (turns > 0) expect(now() - before).toBeLessThanOrEqual(sliceMs + 3);
      turns++;
    } while (!idle());
    await all;
    expect(done).toEqual(["a", "b", "c"]);
    expect(now()).toBe(3 * 40 * 3);
    expect(turns).toBeGreaterThan((3 * 40 * 3) / (sliceMs + 3));
  });

  it("lets nobody wait who comes while there is time, and first those go on who waited longest", async () => {
    const { share, work, turn, idle } = loop();
    expect(share.pause()).toBeUndefined();
    work(sliceMs - 1);
    expect(share.pause()).toBeUndefined();
    work(1);
    const order: number[] = [];
    const first = share.pause()!.then(() => order.push(1));
    const second = share.pause()!.then(() => order.push(2));
    await turn();
    expect(order).toEqual([1]);
    await turn();
    expect(order).toEqual([1, 2]);
    await Promise.all([first, second]);
    await turn();
    expect(idle()).toBe(true);
    expect(share.pause()).toBeUndefined();
  });
});
