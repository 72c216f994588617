// Who may read at once, who waits, and who is told to come back.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { defaultSlots, type SlotLimits, Slots } from "../../services/api/slots.ts";

const limits: SlotLimits = {
  ...defaultSlots,
  ...{ total: 3, perTenant: 2, waitMs: 60_000, waitingPerTenant: 100 },
};
const never = new AbortController().signal;
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Work that runs until it is told to end. */
function held(slots: Slots, tenant: string, signal = never) {
  const state = { running: false, end: (): void => {}, done: Promise.resolve<unknown>(undefined) };
  state.done = slots
    .run(tenant, signal, () => {
      state.running = true;
      return new Promise<void>((resolve) => (state.end = resolve));
    })
    .catch((error: unknown) => error);
  return state;
}

describe("slots", () => {
  it("leave room for another tenant by default", () => {
    expect(defaultSlots.perTenant).toBeLessThan(defaultSlots.total);
  });

  it("never run more than allowed, and everybody gets a turn", async () => {
    const order = fc.array(fc.tuple(fc.constantFrom("a", "b", "c"), fc.nat(3)), { maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(order, async (requests) => {
        const slots = new Slots(limits);
        const running = new Map<string, number>();
        let finished = 0;
        await Promise.all(
          requests.map(([tenant, turns]) =>
            slots.run(tenant, never, async () => {
              running.set(tenant, (running.get(tenant) ?? 0) + 1);
              expect(running.get(tenant)).toBeLessThanOrEqual(limits.perTenant);
              expect([...running.values()].reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(
                limits.total,
              );
              for (let turn = 0; turn < turns; turn++) await settle();
              running.set(tenant, running.get(tenant)! - 1);
              finished++;
            }),
          ),
        );
        expect(finished).toBe(requests.length);
      }),
    );
  });

  it("a tenant with many requests does not keep another waiting", async () => {
    const slots = new Slots(limits);
    const many = Array.from({ length: 10 }, () => held(slots, "many"));
    const other = held(slots, "other");
    await settle();
    expect(many.filter(({ running }) => running)).toHaveLength(2);
    expect(other.running).toBe(true);
    many[0]!.end();
    await settle();
    expect(many[2]!.running).toBe(true);
  });

  it("go past a waiting tenant that has no room to one that has", async () => {
    const slots = new Slots({ ...limits, total: 2, perTenant: 1 });
    const [a, b, again, c] = ["a", "b", "a", "c"].map((tenant) => held(slots, tenant));
    await settle();
    b!.end();
    await settle();
    expect([a!.running, again!.running, c!.running]).toEqual([true, false, true]);
  });

  it("are given back when the work fails", async () => {
    const slots = new Slots({ ...limits, total: 1, perTenant: 1 });
    await expect(slots.run("a", never, () => Promise.reject(new Error("no")))).rejects.toThrow("no");
    expect(await slots.run("a", never, () => Promise.resolve("yes"))).toBe("yes");
  });

  it("are taken until the answer is read", async () => {
    const slots = new Slots({ ...limits, total: 1, perTenant: 1 });
    let read = (): void => {};
    const answered = new Promise<void>((resolve) => (read = resolve));
    expect(await slots.run("a", never, () => Promise.resolve("yes"), answered)).toBe("yes");
    const next = held(slots, "a");
    await settle();
    expect(next.running).toBe(false);
    read();
    await settle();
    expect(next.running).toBe(true);
  });

  it("refuse at once where too many wait, and after a while otherwise", async () => {
    const slots = new Slots({ ...limits, total: 2, perTenant: 1, waitMs: 5, waitingPerTenant: 1 });
    const first = held(slots, "a");
    const waiting = held(slots, "a");
    expect(await held(slots, "a").done).toMatchObject({ status: 429, code: "tenant_busy" });
    expect(waiting.running).toBe(false);
    expect(await waiting.done).toMatchObject({ status: 429 });
    const second = held(slots, "b");
    expect(await held(slots, "c").done).toMatchObject({ status: 503, code: "busy" });
    first.end();
    second.end();
    await Promise.all([first.done, second.done]);
    expect(await slots.run("c", never, () => Promise.resolve("yes"))).toBe("yes");
  });

  it("forget who goes away while waiting", async () => {
    const slots = new Slots({ ...limits, total: 1, perTenant: 1 });
    const first = held(slots, "a");
    const controller = new AbortController();
    const gone = held(slots, "a", controller.signal);
    const next = held(slots, "a");
    controller.abort();
    expect(await gone.done).toMatchObject({ code: "client_gone" });
    expect(await held(slots, "a", AbortSignal.abort()).done).toMatchObject({ code: "client_gone" });
    first.end();
    await settle();
    expect([gone.running, next.running]).toEqual([false, true]);
  });
});
