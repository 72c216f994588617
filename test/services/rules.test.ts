// The bundled rules flag what they promise, and a wrong rules file is refused by name.

import { describe, expect, it } from "vitest";
import { toTenantId } from "../../services/common/auth.ts";
import { eventFromLine, type SiemEvent } from "../../services/ingestor/event.ts";
import { uuidV7 } from "../../services/common/uuid.ts";
import { tooExpensive } from "../../services/ingestor/pattern.ts";
import { type Match, parseRules, RuleEngine } from "../../services/ingestor/rules.ts";

const now = new Date("2031-03-05T12:00:00Z");
const event = (line: string, tenant = "acme"): SiemEvent => eventFromLine(line, toTenantId(tenant), now);
const syslog = (text: string): SiemEvent => event(`Mar  5 11:00:00 host ${text}`);

describe("bundled rules", () => {
  it.each([
    ["sshd[1]: Failed password for root from 192.0.2.7 port 1 ssh2", "sshd-failed-password"],
    ["sshd[1]: Invalid user eve from 192.0.2.7", "sshd-invalid-user"],
    [
      "sshd[1]: reverse mapping checking getaddrinfo for a [192.0.2.7] failed - POSSIBLE BREAK-IN ATTEMPT!",
      "sshd-break-in-attempt",
    ],
    [
      "sudo: pam_unix(sudo:auth): authentication failure; logname=a uid=1 rhost=",
      "sudo-authentication-failure",
    ],
    ["sshd[1]: Accepted password for ann from 192.0.2.8 port 1 ssh2", undefined],
    ["sshd[1]: Connection closed by 192.0.2.7 [preauth]", undefined],
    ["cron[1]: Failed password for root from 192.0.2.7 port 1 ssh2", undefined],
  ])("%s", (text, rule) => {
    expect(new RuleEngine(parseRules()).find(syslog(text))?.id).toBe(rule);
  });

  it("keeps a sender's own verdict", () => {
    const engine = new RuleEngine(parseRules());
    expect(engine.find({ ...event("x"), is_threat: 1 })?.id).toBe("reported-by-source");
    expect(engine.find(event("x"))).toBeUndefined();
  });
});

describe("bursts of HTTP 4xx", () => {
  const hit = (source: string, second: number, status = 404, tenant = "acme"): SiemEvent => ({
    ...event(`${source} - - [05/Mar/2031:11:00:00 +0000] "GET / HTTP/1.1" ${status} 1 "-" "-"`, tenant),
    event_timestamp: second,
  });

  it("flags the 20th within 60 s from one source, and goes on", () => {
    const engine = new RuleEngine(parseRules());
    const found = Array.from({ length: 22 }, (_, i) => engine.find(hit("192.0.2.7", 1000 + i))?.id);
    expect(found.indexOf("http-4xx-burst")).toBe(19);
    expect(found.filter(Boolean)).toHaveLength(3);
  });

  it("counts each source and tenant by itself, only 4xx, and only within the window", () => {
    const engine = new RuleEngine(parseRules());
    for (let i = 0; i < 40; i++) {
      expect(engine.find(hit(`192.0.2.${i % 4}`, 1000 + (i >> 2)))).toBeUndefined();
      expect(engine.find(hit("192.0.2.9", 1000 + i, 404, `t${i % 4}`))).toBeUndefined();
      expect(engine.find(hit("192.0.2.10", 1000, 200))).toBeUndefined();
      expect(engine.find(hit("192.0.2.11", 1000 + i * 4))).toBeUndefined();
    }
  });
});

describe("an event that comes again", () => {
  const line = `192.0.2.7 - - [05/Mar/2031:11:00:00 +0000] "GET / HTTP/1.1" 404 1`;
  const hit = (event_id: string, more: Partial<SiemEvent> = {}): SiemEvent => ({
    ...event(line),
    event_id,
    ...more,
  });
  const ids = (from: number, to: number): string[] =>
    Array.from({ length: to - from }, (_, n) => `e${from + n}`);

  it("counts once, and is judged as it was", () => {
    const engine = new RuleEngine(parseRules());
    const found = (id: string) => engine.find(hit(id))?.id;
    for (let again = 0; again < 4; again++) {
      expect(ids(0, 19).map(found)).toEqual(Array(19).fill(undefined));
    }
    for (let again = 0; again < 2; again++) {
      expect(found("e19")).toBe("http-4xx-burst");
      expect(found("e18")).toBeUndefined();
    }
    expect(engine.remembered).toBe(20);
  });

  it("is another event at another time", () => {
    const engine = new RuleEngine(parseRules());
    const found = [1000, 1010].flatMap((event_timestamp) =>
      ids(0, 10).map((id) => engine.find(hit(id, { event_timestamp }))?.id),
    );
    expect(found.indexOf("http-4xx-burst")).toBe(19);
  });

  it("does not count where its post was refused, and gives back what that pushed out", () => {
    const engine = new RuleEngine(parseRules());
    for (const id of ids(0, 19)) engine.find(hit(id));
    const refused: Match[] = [];
    for (const id of ids(100, 160)) engine.find(hit(id), refused);
    engine.settle(refused, false);
    expect(engine.remembered).toBe(19);
    // The nineteen still count, and nothing else does.
    expect(engine.find(hit("e18"))).toBeUndefined();
    expect(engine.find(hit("e19"))?.id).toBe("http-4xx-burst");
  });

  it("counts while its post waits, though another post with it is refused", () => {
    const engine = new RuleEngine(parseRules());
    const [one, other, third]: [Match[], Match[], Match[]] = [[], [], []];
    for (const id of ids(0, 19)) {
      engine.find(hit(id), one);
      expect(engine.find(hit(id), other)).toBeUndefined();
    }
    engine.settle(other, false);
    expect(engine.find(hit("e19"), third)?.id).toBe("http-4xx-burst");
    engine.settle(one, true);
    engine.settle(third, false);
    expect(engine.remembered).toBe(19);
    expect(engine.find(hit("e20"))?.id).toBe("http-4xx-burst");
  });

  it("counts after all when what was taken back is sent after all, once", () => {
    const engine = new RuleEngine(parseRules());
    const counted: Match[] = [];
    for (const id of ids(0, 19)) engine.find(hit(id), counted);
    for (const isKept of [false, false, true, true]) engine.settle(counted, isKept);
    expect(engine.remembered).toBe(19);
    expect(engine.find(hit("e19"))?.id).toBe("http-4xx-burst");
  });

  it("leaves nothing in memory where all was taken back", () => {
    const engine = new RuleEngine(parseRules());
    for (let n = 0; n < 1000; n++) {
      const counted: Match[] = [];
      engine.find(hit(uuidV7(now), { source_ip: `2001:db8::${n.toString(16)}` }), counted);
      engine.settle(counted, false);
    }
    expect([engine.remembered, engine.sources]).toEqual([0, 0]);
  });
});

describe("memory", () => {
  it("holds so many sources, and forgets the one that was silent longest", () => {
    const engine = new RuleEngine(parseRules());
    const base = event(`192.0.2.1 - - [05/Mar/2031:11:00:00 +0000] "GET / HTTP/1.1" 404 1`);
    let number = 0;
    const hit = (source_ip: string) => engine.find({ ...base, source_ip, event_id: `e${number++}` })?.id;
    const times = (count: number, source: string) => {
      for (let i = 0; i < count; i++) expect(hit(source)).toBeUndefined();
    };
    times(19, "192.0.2.1");
    times(18, "192.0.2.2");
    for (let i = 0; i < 50_000; i++) hit(`2001:db8::${i.toString(16)}`);
    times(1, "192.0.2.2");
    for (let i = 0; i < 50_000; i++) hit(`2001:db8:1::${i.toString(16)}`);
    expect(hit("192.0.2.2")).toBe("http-4xx-burst");
    expect(hit("192.0.2.1")).toBeUndefined();
  });

  it("holds so many times, whatever a rule wants of each source", () => {
    const rules = parseRules(
      "rules: [{ id: a, severity: low, summary: s, match: { raw_event: x }, burst: { count: 1000, window_seconds: 60 } }]",
    );
    const engine = new RuleEngine(rules, 10_000);
    const base = event("x");
    for (let source = 0; source < 40; source++) {
      for (let n = 0; n < 999; n++)
        engine.find({ ...base, source_ip: `192.0.2.${source}`, event_id: `e${n}` });
      expect(engine.remembered).toBeLessThanOrEqual(10_000);
    }
    expect(engine.remembered).toBeGreaterThan(9_000);
    // The last source is still known, the first forgotten.
    expect(engine.find({ ...base, source_ip: "192.0.2.39" })?.id).toBe("a");
    expect(engine.find({ ...base, source_ip: "192.0.2.0" })).toBeUndefined();
  });
});

describe("a team's own rules file", () => {
  it("is YAML or JSON", () => {
    const rules = parseRules(
      "rules:\n  - { id: any, severity: low, summary: all, match: { raw_event: . } }\n",
    );
    expect(new RuleEngine(rules).find(event("x"))).toMatchObject({ id: "any", severity: "low" });
  });

  it.each([
    ["rules: []", /rules/],
    ["rules: [{ id: a, severity: awful, summary: s, match: { raw_event: x } }]", /rules\.0\.severity/],
    [
      "rules: [{ id: a, severity: low, summary: s, match: { raw_event: '(' } }]",
      /raw_event: not a regular expression/,
    ],
    [
      "rules: [{ id: a, severity: low, summary: s, match: { raw_event: 'root.*failed' } }]",
      /rules\.0\.match\.raw_event: costs too much: .*\.\{0,200\}/,
    ],
    ["rules: [{ id: a, severity: low, summary: s, match: { colour: x } }]", /colour/],
    ["rules: [{ id: a, severity: low, summary: s, match: {} }]", /names no field/],
  ])("refuses %s", (text, message) => {
    expect(() => parseRules(text)).toThrow(message);
  });
});

describe("a pattern's cost", () => {
  const longest = 256 * 1024;
  it.each([
    "root.{0,200}failed",
    "^Mar.*failed$",
    "^(?:a|b+)c",
    "(?<name>ab){2}c",
    "\\\\.[*+?]{1,5}\\(",
    "a{3}b?c??",
    "(?=x)y",
    "4\\d\\d (\\d|-)",
  ])("is bounded: %s", (pattern) => {
    expect(tooExpensive(new RegExp(pattern).source, longest)).toBeUndefined();
  });

  it.each([
    "(a+)+$",
    "^(a+)+$",
    "^(a|a)*$",
    "^(a|a){0,50}$",
    "^(?:a?){50}a{50}$",
    "^(?:(?:a{0,9}){0,9}){0,9}$",
    "root.*failed",
    "\\s+$",
    "a{1,}b",
    "^.*a.*b",
    "^a*|b*",
    "(?!^x)y.*z",
    "(?=^)?.*x",
    "(?<=^.*)a",
    "^(.*)\\1$",
    "^(?<x>.*)\\k<x>$",
    "a{1000}b",
    ".{0,20}.{0,20}x",
  ])("is not: %s", (pattern) => {
    expect(tooExpensive(new RegExp(pattern).source, longest)).toBeDefined();
  });

  it("counts less on short texts", () => {
    expect(tooExpensive("login.*failed", 128)).toBeUndefined();
    expect(tooExpensive("a.*b.*c", 128)).toBeDefined();
    expect(tooExpensive("(a+)+", 1)).toBeDefined();
  });
});
