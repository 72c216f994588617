// Reads the log lines the platform knows: syslog (sshd, sudo, anything else) and web-server access logs.

import { isIP } from "node:net";
import type { SiemEvent } from "./event.ts";

/**
 * Oldest event that is taken. ClickHouse makes a partition of every month and refuses rows of more than 100 at once;
 * it would then read the same rows again for ever, and nothing after them.
 */
const maxAgeSeconds = 5 * 366 * 24 * 3600;
/** Senders' clocks and zones run ahead of ours by up to a day. */
const maxAheadSeconds = 24 * 3600;

/** The times that events may have, in unix seconds. */
export function acceptedTimes(now: Date): { readonly from: number; readonly to: number } {
  const present = seconds(now.getTime());
  return { from: present - maxAgeSeconds, to: present + maxAheadSeconds };
}

/** Whether a text is an address; the longest one has 45 characters, but a zone after it could have any number. */
export function isAddress(text: string): boolean {
  return text.length <= 45 && isIP(text) > 0;
}

type Outcome = "success" | "failure" | "unknown";
/** The fields that a log line can tell. */
export type LineFields = Pick<
  SiemEvent,
  "event_timestamp" | "source_ip" | "source_type" | "event_category" | "event_outcome" | "event_action"
>;
type Pattern = readonly [pattern: RegExp, action: string, outcome: Outcome];

const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const syslogLine =
  /^(?:<\d{1,3}>)?(?:([A-Z][a-z]{2}) {1,2}(\d{1,2}) (\d\d):(\d\d):(\d\d)|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d))) \S+ ([\w./-]+)(?:\[\d+\])?: (.*)$/s;
const accessLine =
  /^(\S+) \S+ .*?\[(\d\d)\/([A-Z][a-z]{2})\/(\d{4}):(\d\d:\d\d:\d\d) ([+-]\d\d)(\d\d)\] "((?:[^"\\]|\\.)*)" (\d{3}) (?:\d+|-)(?: |$)/;

// Patterns are anchored: user names are the attacker's to choose and could look like any message.
// Their work grows with the line's length and no faster: where one unbounded part follows another, the first ends at
// a character that the second can't start over from. A lazy `.*?` before `\S+` would try every pair of places.
const sshd: readonly Pattern[] = [
  [/^Failed password for .* from (?<ip>\S+) port \d+/, "failed_password", "failure"],
  [/^Failed \S+ for invalid user .* from (?<ip>\S+) port \d+/, "invalid_user", "failure"],
  [/^Invalid user .* from (?<ip>\S+?)(?: port \d+)?$/, "invalid_user", "failure"],
  [/^input_userauth_request: invalid user /, "invalid_user", "failure"],
  [
    /^reverse mapping checking getaddrinfo for \S+ \[(?<ip>[^\]]+)\] failed - POSSIBLE BREAK-IN/,
    "break_in_attempt",
    "failure",
  ],
  [/^Address (?<ip>\S+) maps to .* POSSIBLE BREAK-IN/, "break_in_attempt", "failure"],
  [/^Failed \S+ for .* from (?<ip>\S+) port \d+/, "failed_login", "failure"],
  [/^Accepted \S+ for .* from (?<ip>\S+) port \d+/, "login", "success"],
  [/^pam_unix\(sshd:auth\): authentication failure;.* rhost=(?<ip>\S*)/, "authentication_failure", "failure"],
  [/^PAM \d+ more authentication failures?;.* rhost=(?<ip>\S*)/, "authentication_failure", "failure"],
  [/^Disconnecting: Too many authentication failures/, "too_many_failures", "failure"],
  [/^pam_unix\(sshd:session\): session opened/, "session_opened", "success"],
  [/^pam_unix\(sshd:session\): session closed/, "session_closed", "success"],
  [/^(?:error: )?Received disconnect from (?<ip>[\da-fA-F.:]*[\da-fA-F])/, "disconnect", "unknown"],
  [
    /^(?:Connection (?:closed|reset) by|Disconnected from) (?:.* )?(?<ip>[\da-fA-F]*[.:][\da-fA-F.:]*(?:%\w+)?)(?: port \d+)?(?: \[preauth\])?$/,
    "disconnect",
    "unknown",
  ],
  [/^(?:Connection (?:closed|reset) by|Disconnected from) /, "disconnect", "unknown"],
  [/^Did not receive identification string from (?<ip>\S+)/, "no_identification", "unknown"],
];
const sudo: readonly Pattern[] = [
  [/^pam_unix\(sudo:auth\): authentication failure;.* rhost=(?<ip>\S*)/, "authentication_failure", "failure"],
  [/^ *\S+ : \d+ incorrect password attempts? ; /, "incorrect_password", "failure"],
  [/^ *\S+ : user NOT in sudoers ; /, "not_in_sudoers", "failure"],
  [/^ *\S+ : command not allowed ; /, "command_not_allowed", "failure"],
  [/^ *\S+ : TTY=/, "command", "success"],
  [/^pam_unix\(sudo:session\): session opened/, "session_opened", "success"],
  [/^pam_unix\(sudo:session\): session closed/, "session_closed", "success"],
];

/** What a line says. A line of an unknown shape is kept as it is, with the time of its arrival. */
export function parseLine(line: string, now: Date): LineFields {
  const access = accessLine.exec(line);
  if (access) return parseAccess(access, now);
  const syslog = syslogLine.exec(line);
  if (syslog) return parseSyslog(syslog, now);
  return {
    event_timestamp: seconds(now.getTime()),
    source_ip: "",
    source_type: "unknown",
    event_category: "other",
    event_outcome: "unknown",
    event_action: "message",
  };
}

function parseSyslog(match: RegExpExecArray, now: Date): LineFields {
  const [, month, day, hour, minute, second, iso, program = "", text = ""] = match;
  const at = iso
    ? Date.parse(iso)
    : yearless(months.indexOf(month!), Number(day), Number(hour), Number(minute), Number(second), now);
  // OpenSSH 9.8 logs as sshd-session.
  const name = program.replace(/^.*\//, "").replace(/^sshd-session$/, "sshd");
  const known = name === "sshd" ? sshd : name === "sudo" ? sudo : undefined;
  const base = { event_timestamp: valid(at, now), source_type: known ? name : "syslog" };
  const message = (/^message repeated \d+ times: \[ (.*)\]$/s.exec(text)?.[1] ?? text).trimEnd();
  for (const [pattern, action, outcome] of known ?? []) {
    const found = pattern.exec(message);
    if (!found) continue;
    const ip = found.groups?.["ip"] ?? "";
    return {
      ...base,
      source_ip: isAddress(ip) ? ip : "",
      event_category: "authentication",
      event_outcome: outcome,
      event_action: action,
    };
  }
  const event_category = known ? "authentication" : "system";
  return { ...base, source_ip: "", event_category, event_outcome: "unknown", event_action: "message" };
}

function parseAccess(match: RegExpExecArray, now: Date): LineFields {
  const [, client = "", day, month = "", year, time, zoneHours, zoneMinutes, request = "", status] = match;
  const monthNumber = String(months.indexOf(month) + 1).padStart(2, "0");
  const at = Date.parse(`${year}-${monthNumber}-${day}T${time}${zoneHours}:${zoneMinutes}`);
  return {
    event_timestamp: valid(at, now),
    source_ip: isAddress(client) ? client : "",
    source_type: "http",
    event_category: "web",
    event_outcome: Number(status) < 400 ? "success" : "failure",
    event_action: /^([A-Z]{3,16}) /.exec(request)?.[1]?.toLowerCase() ?? "request",
  };
}

/** RFC 3164 has no year: the latest one in which the date exists and is not in the future. Times are UTC. */
function yearless(
  month: number,
  day: number,
  hour: number,
  minute: number,
  second: number,
  now: Date,
): number {
  const latest = now.getTime() + maxAheadSeconds * 1000;
  for (let year = now.getUTCFullYear() + 1; year > now.getUTCFullYear() - 9; year--) {
    const at = Date.UTC(year, month, day, hour, minute, second);
    if (at <= latest && new Date(at).getUTCMonth() === month) return at;
  }
  return Number.NaN;
}

/** A line's own time if an event may have it, or else that of its arrival; the raw line still shows the former. */
function valid(milliseconds: number, now: Date): number {
  const value = seconds(milliseconds);
  const { from, to } = acceptedTimes(now);
  return value >= from && value <= to ? value : seconds(now.getTime());
}

function seconds(milliseconds: number): number {
  return Math.floor(milliseconds / 1000);
}
