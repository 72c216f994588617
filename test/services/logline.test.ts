// Log lines of the known shapes become the right fields, and nothing an attacker writes moves the source.

import { describe, expect, it } from "vitest";
import { acceptedTimes, parseLine } from "../../services/ingestor/logline.ts";

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
  // The patterns' beginnings, and what their middles and ends start over from. All of a head's lines together take
  // a fraction of a second; at this length, one whose work grows with the square of it takes more than the limit.
  const length = 100_000;
  const limitMs = 5_000;
  const heads = [
    "",
    "x y ",
    "Mar  4 01:02:03 h ",
    "2031-03-04T01:02:03.",
    ...[
      "",
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
      "PAM 1 more authentication failure;",
      "Received disconnect from ",
      "Connection closed by ",
      "Disconnected from ",
      "Did not receive identification string from ",
    ].map((text) => `Mar  4 01:02:03 h sshd[1]: ${text}`),
    "Mar  4 01:02:03 h sudo: ",
    "Mar  4 01:02:03 h sudo: x : ",
  ];
  const units = [
    ..."a1 .:/[]\t",
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
    '[04/Mar/2031:03:02:03 +0200] "',
    '[04/Mar/2031:03:02:03 +0200] "\\"',
  ];

  it.each(heads)("grows no faster than the line after %j", (head) => {
    const began = Date.now();
    for (const unit of units) {
      const body = unit.repeat(Math.ceil(length / unit.length));
      for (const end of ["", " x", "\nx", " port 1x", "]x"]) {
        parseLine(head + body + end, now);
        if (Date.now() - began > limitMs) throw new Error(`too slow with many ${unit} before ${end}`);
      }
    }
  });
});

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
