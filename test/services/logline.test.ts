// Log lines of the known shapes become the right fields, and nothing an attacker writes moves the source.

import { describe, expect, it } from "vitest";
import { acceptedTimes, parseLine, shapes, sshd, sudo } from "../../services/ingestor/logline.ts";

const now = new Date("2031-03-05T12:00:00Z");
const at = (iso: string): number => Date.parse(iso) / 1000;

describe("sshd", () => {
  const line = (text: string): string => `Mar  4 01:02:03 bastion sshd[4711]: ${text}`;

  it.each([
    ["Failed password for root from 192.0.2.7 port 4022 ssh2", "failed_password", "failure", "192.0.2.7"],
    [
      "Failed password for invalid user bob from 192.0.2.7 port 1 ssh2",
      "failed_password",
      "failure",
      "192.0.2.7",
    ],
    ["Failed none for invalid user 0 from 192.0.2.7 port 1 ssh2", "invalid_user", "failure", "192.0.2.7"],
    [
      "message repeated 3 times: [ Failed password for root from 192.0.2.7 port 1 ssh2]",
      "failed_password",
      "failure",
      "192.0.2.7",
    ],
    ["Invalid user  from 2001:db8::5", "invalid_user", "failure", "2001:db8::5"],
    ["Invalid user eve from 192.0.2.7 port 4022", "invalid_user", "failure", "192.0.2.7"],
    ["input_userauth_request: invalid user eve [preauth]", "invalid_user", "failure", ""],
    [
      "reverse mapping checking getaddrinfo for a.example [192.0.2.7] failed - POSSIBLE BREAK-IN ATTEMPT!",
      "break_in_attempt",
      "failure",
      "192.0.2.7",
    ],
    [
      "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7  user=root",
      "authentication_failure",
      "failure",
      "192.0.2.7",
    ],
    [
      "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=a.example ",
      "authentication_failure",
      "failure",
      "",
    ],
    [
      "Accepted publickey for ann from 192.0.2.8 port 22 ssh2: ED25519 SHA256:x",
      "login",
      "success",
      "192.0.2.8",
    ],
    ["Received disconnect from 192.0.2.7: 11: Bye Bye [preauth]", "disconnect", "unknown", "192.0.2.7"],
    [
      "Connection closed by authenticating user root 192.0.2.7 port 9 [preauth]",
      "disconnect",
      "unknown",
      "192.0.2.7",
    ],
    [
      "Disconnected from invalid user a b c d e f g h i 203.0.113.1 port 7 2001:db8::5 port 4022 [preauth]",
      "disconnect",
      "unknown",
      "2001:db8::5",
    ],
    ["Disconnected from 192.0.2.7", "disconnect", "unknown", "192.0.2.7"],
    ["Connection reset by fe80::1%eth0 port 22", "disconnect", "unknown", "fe80::1%eth0"],
    ["Connection closed by UNKNOWN port 65535 [preauth]", "disconnect", "unknown", ""],
    ["fatal: something new", "message", "unknown", ""],
  ])("%s", (text, event_action, event_outcome, source_ip) => {
    expect(parseLine(line(text), now)).toEqual({
      event_timestamp: at("2031-03-04T01:02:03Z"),
      source_type: "sshd",
      event_category: "authentication",
      event_action,
      event_outcome,
      source_ip,
      isDated: true,
    });
  });

  it("takes the source from where sshd writes it, not from a user name or a disconnect message", () => {
    const forged = "Invalid user x from 203.0.113.1 from 192.0.2.7";
    expect(parseLine(line(forged), now).source_ip).toBe("192.0.2.7");
    const farewell = "Received disconnect from 192.0.2.7: 11: sent from 203.0.113.1";
    expect(parseLine(line(farewell), now).source_ip).toBe("192.0.2.7");
    const named = "Failed password for POSSIBLE BREAK-IN from 203.0.113.1 port 1 from 192.0.2.7 port 2 ssh2";
    expect(parseLine(line(named), now)).toMatchObject({
      event_action: "failed_password",
      source_ip: "192.0.2.7",
    });
  });
});

describe("other lines", () => {
  it.each([
    [
      "pam_unix(sudo:auth): authentication failure; logname=ann uid=1 euid=0 tty=pts/0 ruser=ann rhost=  user=ann",
      "authentication_failure",
      "failure",
    ],
    [
      "     ann : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
      "incorrect_password",
      "failure",
    ],
    [
      "     bob : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh",
      "not_in_sudoers",
      "failure",
    ],
    ["     ann : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/ls", "command", "success"],
  ])("sudo: %s", (text, event_action, event_outcome) => {
    const parsed = parseLine(`<85>Mar  4 01:02:03 bastion sudo: ${text}`, now);
    expect(parsed).toMatchObject({
      source_type: "sudo",
      event_category: "authentication",
      event_action,
      event_outcome,
    });
  });

  it("reads access logs in the combined format", () => {
    const line = `192.0.2.9 - ann [04/Mar/2031:03:02:03 +0200] "GET /a?b=\\"c\\" HTTP/1.1" 404 153 "-" "curl/8"`;
    expect(parseLine(line, now)).toEqual({
      event_timestamp: at("2031-03-04T01:02:03Z"),
      source_ip: "192.0.2.9",
      source_type: "http",
      event_category: "web",
      event_outcome: "failure",
      event_action: "get",
      isDated: true,
    });
    expect(parseLine(line.replace("404", "200"), now).event_outcome).toBe("success");
  });

  it("keeps other syslog programs and lines of no known shape", () => {
    expect(parseLine("2031-03-04T01:02:03.5+00:00 host cron[1]: job done", now)).toMatchObject({
      source_type: "syslog",
      event_category: "system",
      event_timestamp: at("2031-03-04T01:02:03Z"),
    });
    expect(parseLine("hello", now)).toMatchObject({
      source_type: "unknown",
      event_timestamp: at("2031-03-05T12:00:00Z"),
    });
  });
});

describe("work", () => {
  // Counted, not timed: the steps of a plain backtracking matcher, which does at least what an engine does. Lines of
  // the patterns' beginnings, and of what their middles and ends start over from; twice the line, twice the steps.
  const length = 500;
  const heads = [
    "",
    "x y ",
    "Mar  4 01:02:03 ",
    "Mar  4 01:02:03 h ",
    "<13>",
    "<13>1 - ",
    "<13>1 - h a - - ",
    "2031-03-04T01:02:03.",
    "2031-03-04T01:02:03Z h ",
    "2031/03/04 01:02:03 [error] 1#",
    "[Tue Mar 04 01:02:03.1 2031] [",
    "[Tue Mar 04 01:02:03 2031] [core:error] [pid 1",
    "[Tue Mar 04 01:02:03 2031] [core:error] [pid 1] [client ",
    "message repeated 2 times: [ ",
    "Failed password for ",
    "Failed none for invalid user ",
    "Failed none for ",
    "Invalid user ",
    "reverse mapping checking getaddrinfo for ",
    "reverse mapping checking getaddrinfo for a [",
    "Address 1.1.1.1 maps to ",
    "Accepted none for ",
    "pam_unix(sshd:auth): authentication failure;",
    "pam_unix(sudo:auth): authentication failure;",
    "PAM 1 more authentication failure;",
    "Received disconnect from ",
    "Connection closed by ",
    "Disconnected from ",
    "Did not receive identification string from ",
    "x : ",
    "x : 1 incorrect password attempts",
  ];
  const units = [
    ..."a1 .:/[]\t(",
    "a ",
    "1.",
    "a:",
    '\\"',
    "1.1.1.1 ",
    " port 1",
    " from ",
    " from 1.1.1.1 port 1",
    " from 1.1.1.1 port 1 [preauth]x",
    " 1.1.1.1 port 1 [preauth]",
    " rhost=",
    "[1] ",
    "[1]: ",
    '[04/Mar/2031:03:02:03 +0200] "',
    '[04/Mar/2031:03:02:03 +0200] "\\"',
  ];
  const line = (head: string, unit: string, end: string, size: number): string =>
    head + unit.repeat(Math.ceil(size / unit.length)) + end;
  const patterns = [...Object.values(shapes), ...[...sshd, ...sudo].map(([pattern]) => pattern)];

  it.each(patterns)("grows no faster than the line: %s", (pattern) => {
    expect(pattern.source).toMatch(/^\^/);
    const steps = counter(pattern);
    for (const head of heads) {
      for (const unit of units) {
        for (const end of ["", " x", "\nx", " port 1x", "]x"]) {
          const [once, twice] = [length, 2 * length].map((size) => steps(line(head, unit, end, size)).steps);
          const what = `${JSON.stringify(head)}, many ${JSON.stringify(unit)}, ${JSON.stringify(end)}: ${once}, then ${twice}`;
          if (twice! > 2.2 * once! + 500) throw new Error(`too many steps: ${what}`);
        }
      }
    }
  });

  it("is counted by a matcher that agrees with the engine", () => {
    const said = [
      "Failed password for a from 192.0.2.7 port 1 ssh2",
      "Invalid user  from ::1",
      "x : TTY=a ; b",
    ];
    const access = `1.1.1.1 - - [04/Mar/2031:03:02:03 +0200] "GET /\\"a HTTP/1.1" 404 1`;
    const known = [
      access,
      `${access} "-" "-"`,
      ...said,
      ...said.map((text) => `<13>Mar  4 01:02:03 h a[1]: ${text}`),
      ...said.map((text) => `<13>1 2031-03-04T01:02:03.5Z h a - - [a b="c"] ${text}`),
      "2031/03/04 01:02:03 [error] 1#1: x",
      "[Tue Mar 04 01:02:03.123456 2031] [core:error] [pid 12:tid 34] [client 192.0.2.9:56] x",
      ...heads,
      ...heads.flatMap((head) => units.map((unit) => line(head, unit, " x", 40))),
    ];
    let matches = 0;
    for (const pattern of patterns) {
      const steps = counter(pattern);
      for (const text of known) {
        expect(steps(text).found, `${pattern} on ${text}`).toBe(pattern.test(text));
        if (pattern.test(text)) matches++;
      }
    }
    expect(matches).toBeGreaterThan(100);
  });

  it("would be seen to grow faster", () => {
    for (const bad of [/^.*?(\S+)x/, /^.*.*.*9/, /^.* from .* port \d+/]) {
      const steps = counter(bad);
      const grown = units.some((unit) => {
        const [once, twice] = [60, 120].map((size) => steps(line("", unit, "", size), 1e6).steps);
        return twice! > 3 * once!;
      });
      expect(grown, String(bad)).toBe(true);
    }
  });
});

/** Matches from `at`, and asks `next` whether the rest matches too. */
type Part = ((at: number, next: (at: number) => boolean) => boolean) & { one?: (at: number) => boolean };

/** A backtracking matcher for what the patterns here are made of, which counts the characters it looks at. */
function counter(pattern: RegExp): (text: string, most?: number) => { found: boolean; steps: number } {
  const { source } = pattern;
  const dot = pattern.flags.includes("s") ? /^.$/s : /^.$/;
  let [text, steps, most, place] = ["", 0, Number.POSITIVE_INFINITY, 0];
  class TooMany extends Error {}
  const step = (): void => {
    if (++steps > most) throw new TooMany();
  };
  const one = (test: (char: string) => boolean): Part => {
    const known = new Map<string, boolean>();
    const matches = (at: number): boolean => {
      step();
      const char = text[at];
      if (char === undefined) return false;
      const before = known.get(char);
      if (before !== undefined) return before;
      known.set(char, test(char));
      return known.get(char)!;
    };
    return Object.assign((at: number, next: (at: number) => boolean) => matches(at) && next(at + 1), {
      one: matches,
    });
  };
  const repeat = (part: Part, min: number, max: number, lazy: boolean): Part => {
    const single = part.one;
    if (single) {
      return (at, next) => {
        let count = 0;
        while (count < min) if (!single(at + count++)) return false;
        if (lazy) {
          while (!next(at + count)) if (count++ >= max || !single(at + count - 1)) return false;
          return true;
        }
        while (count < max && single(at + count)) count++;
        for (; count >= min; count--) {
          step();
          if (next(at + count)) return true;
        }
        return false;
      };
    }
    const from = (count: number, at: number, next: (at: number) => boolean): boolean => {
      const more = (): boolean =>
        count < max && part(at, (end) => (end > at || count < min) && from(count + 1, end, next));
      if (count < min) return more();
      return lazy ? next(at) || more() : more() || next(at);
    };
    return (at, next) => from(0, at, next);
  };
  const alternatives = (): Part => {
    const ways: Part[] = [];
    do ways.push(sequence());
    while (source[place] === "|" && place++ >= 0);
    return ways.length === 1 ? ways[0]! : (at, next) => ways.some((way) => way(at, next));
  };
  const sequence = (): Part => {
    const parts: Part[] = [];
    while (place < source.length && source[place] !== "|" && source[place] !== ")") parts.push(quantified());
    if (parts.length === 1) return parts[0]!;
    const from = (index: number, at: number, next: (at: number) => boolean): boolean =>
      index === parts.length ? next(at) : parts[index]!(at, (end) => from(index + 1, end, next));
    return (at, next) => from(0, at, next);
  };
  const quantified = (): Part => {
    const part = atom();
    const found = /^(?:([*+?])|\{(\d+)(,(\d*))?\})(\?)?/.exec(source.slice(place));
    if (!found) return part;
    place += found[0].length;
    const [, sign, from, open, to, lazy] = found;
    const min = sign ? (sign === "+" ? 1 : 0) : Number(from);
    const max = sign === "?" ? 1 : sign || (open && !to) ? Number.POSITIVE_INFINITY : open ? Number(to) : min;
    return repeat(part, min, max, lazy !== undefined);
  };
  const atom = (): Part => {
    const rest = source.slice(place);
    const group = /^\((?:\?(?::|=|<\w+>))?/.exec(rest)?.[0];
    if (group) {
      place += group.length;
      const inner = alternatives();
      place++;
      return group === "(?=" ? (at, next) => inner(at, () => true) && next(at) : inner;
    }
    const unit = /^(?:\[(?:[^\]\\]|\\.)*\]|\\.|.)/s.exec(rest)![0];
    place += unit.length;
    if (unit === "^") return (at, next) => at === 0 && next(at);
    if (unit === "$") return (at, next) => at === text.length && next(at);
    if (unit === ".") return one((char) => dot.test(char));
    const single = new RegExp(`^${unit}$`, "s");
    return one((char) => single.test(char));
  };
  const whole = alternatives();
  return (given, limit = Number.POSITIVE_INFINITY) => {
    [text, steps, most] = [given, 0, limit];
    try {
      return { found: whole(0, () => true), steps };
    } catch (error) {
      if (!(error instanceof TooMany)) throw error;
      return { found: false, steps };
    }
  };
}

describe("times that are not taken", () => {
  const arrival = at("2031-03-05T12:00:00Z");
  it.each([
    ["1970-01-01T00:00:00Z h a: x", arrival],
    ["2026-02-01T00:00:00Z h a: x", arrival],
    ["2026-04-01T00:00:00Z h a: x", at("2026-04-01T00:00:00Z")],
    ["2031-03-06T11:59:59Z h a: x", at("2031-03-06T11:59:59Z")],
    ["2031-03-06T12:00:01Z h a: x", arrival],
    ["2105-01-01T00:00:00Z h a: x", arrival],
    [`1.1.1.1 - - [04/Mar/1999:03:02:03 +0200] "GET / HTTP/1.1" 200 1`, arrival],
  ])("%s", (line, expected) => {
    expect(parseLine(line, now).event_timestamp).toBe(expected);
  });

  it("leave fewer months than the 100 partitions that ClickHouse writes at once", () => {
    for (const present of ["2031-03-05T12:00:00Z", "2032-02-29T23:59:59Z", "2099-12-31T00:00:00Z"]) {
      const { from, to } = acceptedTimes(new Date(present));
      const month = (time: number): number =>
        new Date(time * 1000).getUTCFullYear() * 12 + new Date(time * 1000).getUTCMonth();
      expect(month(to) - month(from) + 1).toBeLessThan(70);
    }
  });
});

describe("what fixes the time", () => {
  it.each([
    ["2031-03-04T01:02:03Z h a: x", true],
    ["Mar  4 01:02:03 h a: x", true],
    ["hello", false],
    ["<13>1 - h a - - - x", false],
    ["1999-03-04T01:02:03Z h a: x", false],
    // Last year's, or that of a clock that runs ahead.
    ["Mar  7 01:02:03 h a: x", false],
    ["May  3 01:02:03 h a: x", false],
    ["May  9 01:02:03 h a: x", true],
    ["2031-03-06T12:00:00Z h a: x", true],
    ["2031-03-06T12:00:01Z h a: x", false],
    // The oldest that is taken is of 2026-03-01T12:00:00Z.
    ["2026-03-01T11:59:59Z h a: x", false],
    ["2026-03-01T12:00:00Z h a: x", true],
  ])("%s: %s", (line, expected) => expect(parseLine(line, now).isDated).toBe(expected));
});

describe("syslog's parts", () => {
  const parse = (line: string) => parseLine(line, now);
  it.each([
    ['<13>1 2031-03-04T01:02:03Z h a 1 ID [x y="]\\"["][z] m', "id"],
    ['<13>1 2031-03-04T01:02:03Z h a 1 ID [x y="never closed] m', "id"],
    ["<13>1 2031-03-04T01:02:03Z h a 1 - -", "message"],
  ])("%s", (line, action) => {
    expect(parse(line)).toMatchObject({ source_type: "syslog", event_action: action, isDated: true });
  });

  it("knows sshd's message after structured data and a byte order mark", () => {
    for (const data of ["-", '[a b="c"]', '[a b="]"][d]']) {
      for (const mark of ["", "\ufeff"]) {
        const line = `<38>1 2031-03-04T01:02:03Z h sshd 1 - ${data} ${mark}Invalid user eve from 192.0.2.7`;
        expect(parse(line)).toMatchObject({ source_ip: "192.0.2.7", event_action: "invalid_user" });
      }
    }
  });

  it("is no source where structured data or a program's name only looks like sshd's message", () => {
    const forged = `<38>1 2031-03-04T01:02:03Z h app 1 - [a b="] Invalid user x from 203.0.113.1"] hello`;
    expect(parse(forged).source_ip).toBe("");
    expect(parse("<13>Mar  4 01:02:03 h sshd: x sshd[1]: Invalid user x from 203.0.113.1").source_ip).toBe(
      "",
    );
  });

  it("has a priority up to 191", () => {
    expect(parse("<191>x").source_type).toBe("syslog");
    expect(parse("<192>x").source_type).toBe("unknown");
    expect(parse("<999>Mar  4 01:02:03 h a: x")).toMatchObject({
      event_category: "system",
      event_outcome: "unknown",
    });
  });

  it("names no client where nginx's line names two", () => {
    const line = `2031/03/04 01:02:03 [error] 1#1: *1 open() "/a, client: 203.0.113.1, server: _" failed, client: 192.0.2.9, server: _`;
    expect(parse(line)).toMatchObject({ source_type: "http", source_ip: "" });
  });
});

describe("dates without a year", () => {
  const time = (date: string, present: string): string =>
    new Date(parseLine(`${date} h sshd[1]: x`, new Date(present)).event_timestamp * 1000).toISOString();

  it("lie in this year, or in the last one if that would be the future", () => {
    expect(time("Mar  5 11:00:00", "2031-03-05T12:00:00Z")).toBe("2031-03-05T11:00:00.000Z");
    expect(time("Dec 10 06:55:46", "2031-03-05T12:00:00Z")).toBe("2030-12-10T06:55:46.000Z");
  });

  it("survive clocks that run ahead, New Year's Eve and leap days", () => {
    expect(time("Mar  5 12:00:09", "2031-03-05T12:00:00Z")).toBe("2031-03-05T12:00:09.000Z");
    expect(time("Jan  1 00:00:01", "2030-12-31T23:59:59Z")).toBe("2031-01-01T00:00:01.000Z");
    expect(time("Feb 29 10:00:00", "2031-03-05T12:00:00Z")).toBe("2028-02-29T10:00:00.000Z");
  });
});
