// The bundled rules flag what they promise, and a wrong rules file is refused by name.

import { describe, expect, it } from "vitest";
import { toTenantId } from "../../services/common/auth.ts";
import { eventFromLine, type SiemEvent } from "../../services/ingestor/event.ts";
import { parseRules, RuleEngine } from "../../services/ingestor/rules.ts";

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
    ["rules: [{ id: a, severity: low, summary: s, match: { colour: x } }]", /colour/],
    ["rules: [{ id: a, severity: low, summary: s, match: {} }]", /names no field/],
  ])("refuses %s", (text, message) => {
    expect(() => parseRules(text)).toThrow(message);
  });
});
