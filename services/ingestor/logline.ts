// Reads the log lines the platform knows: syslog (sshd, sudo, anything else) and web servers' access and error logs.
// docs/ingest.md says the same in words; its examples are tests.

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

/** A line without a year that comes again within so many days finds the same one. */
const repeatDays = 60;

/** Whether a text is an address; the longest one has 45 characters, but a zone after it could have any number. */
export function isAddress(text: string): boolean {
  return text.length <= 45 && isIP(text) > 0;
}

type Outcome = "success" | "failure" | "unknown";
/** What a log line can tell. */
export interface LineFields extends Pick<
  SiemEvent,
  "event_timestamp" | "source_ip" | "source_type" | "event_category" | "event_outcome" | "event_action"
> {
  /** Whether the time is the line's own, and the same whenever the line comes. */
  readonly isDated: boolean;
}
type Pattern = readonly [pattern: RegExp, action: string, outcome: Outcome];
/** A point in time, or what stands for it where the line has none that an event may have. */
type When = Pick<LineFields, "event_timestamp" | "isDated">;

const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const isoTime = String.raw`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)`;
const yearlessTime = String.raw`([A-Z][a-z]{2}) {1,2}(\d{1,2}) (\d\d):(\d\d):(\d\d)`;

/** Exported for the test that proves that their work grows no faster than the line. */
export const shapes = {
  /** RFC 5424 up to the message id; structured data and message follow. */
  syslog5424: new RegExp(
    String.raw`^<(\d{1,3})>1 (?:-|(${isoTime})) \S{1,255} (\S{1,48}) \S{1,128} (\S{1,32}) (?=[-[])`,
  ),
  /** RFC 3164 and what is written to files: the priority may be missing, the time may be ISO 8601. */
  syslog3164: new RegExp(
    String.raw`^(?:<(\d{1,3})>)?(?:${yearlessTime}|(${isoTime})) \S{1,255} (?:([\w./()@-]{1,128})(?:\[\d{1,20}\])?: )?(.*)$`,
    "s",
  ),
  priority: /^<(\d{1,3})>(.*)$/s,
  access:
    /^(\S+) \S+ .*?\[(\d\d)\/([A-Z][a-z]{2})\/(\d{4}):(\d\d:\d\d:\d\d) ([+-]\d\d)(\d\d)\] "((?:[^"\\]|\\.)*)" (\d{3}) (?:\d+|-)(?: |$)/,
  nginxError: /^(\d{4})\/(\d\d)\/(\d\d) (\d\d:\d\d:\d\d) \[([a-z]{4,6})\] \d{1,10}#\d{1,10}: /,
  apacheError:
    /^\[[A-Z][a-z]{2} ([A-Z][a-z]{2}) (\d\d) (\d\d:\d\d:\d\d)(?:\.\d{1,6})? (\d{4})\] \[(?:\w{0,32}:)?([a-z]{4,6})\d?\] (?:\[pid \d{1,10}(?::tid \d{1,20})?\] )?(?:\[client ([\da-fA-F.:]{2,45}?)(?::\d{1,5})?\] )?/,
  repeated: /^message repeated \d+ times: \[ (.*)\]$/s,
} as const;

// Patterns are anchored: user names are the attacker's to choose and could look like any message.
// Their work grows with the line's length and no faster: where one unbounded part follows another, the first ends at
// a character that the second can't start over from. A lazy `.*?` before `\S+` would try every pair of places.
export const sshd: readonly Pattern[] = [
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
export const sudo: readonly Pattern[] = [
  [/^pam_unix\(sudo:auth\): authentication failure;.* rhost=(?<ip>\S*)/, "authentication_failure", "failure"],
  [/^ *\S+ : \d+ incorrect password attempts? ; /, "incorrect_password", "failure"],
  [/^ *\S+ : user NOT in sudoers ; /, "not_in_sudoers", "failure"],
  [/^ *\S+ : command not allowed ; /, "command_not_allowed", "failure"],
  [/^ *\S+ : TTY=/, "command", "success"],
  [/^pam_unix\(sudo:session\): session opened/, "session_opened", "success"],
  [/^pam_unix\(sudo:session\): session closed/, "session_closed", "success"],
];

/** Facilities of syslog that are about who may do what: auth, authpriv, audit. */
const authFacilities: readonly number[] = [4, 10, 13];
/** Severities of syslog from emergency to error. */
const worstHarmless = 4;
/** Levels of a web server's error log that say that something failed. */
const failedLevels: readonly string[] = ["error", "crit", "alert", "emerg"];

/**
 * What a line says. A line of an unknown shape is kept as it is. One without a time that an event may have gets that
 * of `clock`, which also tells the year where the line doesn't.
 * @param clock when the line is known to have been sent; the time of arrival, if nothing better is known
 */
export function parseLine(line: string, clock: Date): LineFields {
  const access = shapes.access.exec(line);
  if (access) return parseAccess(access, clock);
  const modern = shapes.syslog5424.exec(line);
  if (modern) {
    const [header, priority, iso, program = "", id = ""] = modern;
    const when = iso ? at(Date.parse(iso), clock) : unknownTime(clock);
    const action = id === "-" ? undefined : id.toLowerCase();
    return message(program, afterStructuredData(line, header.length), when, priority, action);
  }
  const classic = shapes.syslog3164.exec(line);
  if (classic) {
    const [, priority, month, day, hour, minute, second, iso, program = "", text = ""] = classic;
    const when = iso
      ? at(Date.parse(iso), clock)
      : yearless(months.indexOf(month!), Number(day), Number(hour), Number(minute), Number(second), clock);
    return message(program, text, when, priority);
  }
  const error = parseErrorLog(line, clock);
  if (error) return error;
  const bare = shapes.priority.exec(line);
  if (bare && Number(bare[1]) <= highestPriority) return message("", bare[2]!, unknownTime(clock), bare[1]);
  return {
    ...unknownTime(clock),
    source_ip: "",
    source_type: "unknown",
    event_category: "other",
    event_outcome: "unknown",
    event_action: "message",
  };
}

/** Facility 23, severity 7. */
const highestPriority = 191;

/** A program's message, whatever brought it. */
function message(
  program: string,
  text: string,
  when: When,
  priority: string | undefined,
  ownAction = "message",
): LineFields {
  // OpenSSH 9.8 logs as sshd-session.
  const name = program.replace(/^.*\//, "").replace(/^sshd-session$/, "sshd");
  const known = name === "sshd" ? sshd : name === "sudo" ? sudo : undefined;
  const base = { ...when, source_type: known ? name : "syslog" };
  const said = (shapes.repeated.exec(text)?.[1] ?? text).trimEnd();
  for (const [pattern, event_action, event_outcome] of known ?? []) {
    const found = pattern.exec(said);
    if (!found) continue;
    const ip = found.groups?.["ip"] ?? "";
    const source_ip = isAddress(ip) ? ip : "";
    return { ...base, source_ip, event_category: "authentication", event_outcome, event_action };
  }
  const value = priority === undefined ? Number.NaN : Number(priority);
  const told = value <= highestPriority;
  const isAuth = known !== undefined || (told && authFacilities.includes(value >> 3));
  return {
    ...base,
    source_ip: "",
    event_category: isAuth ? "authentication" : "system",
    // What sshd and sudo call an error is often an attacker's broken connection.
    event_outcome: !known && told && (value & 7) < worstHarmless ? "failure" : "unknown",
    event_action: ownAction,
  };
}

/** The message after RFC 5424's structured data, without its byte order mark; all of the rest if the data is broken. */
function afterStructuredData(line: string, start: number): string {
  let place = start;
  if (line[place] === "-") place++;
  while (line[place] === "[") {
    let quoted = false;
    for (place++; place < line.length && (quoted || line[place] !== "]"); place++) {
      if (quoted && line[place] === "\\") place++;
      else if (line[place] === '"') quoted = !quoted;
    }
    if (place >= line.length) return line.slice(start);
    place++;
  }
  return line.slice(place).replace(/^ ?\ufeff?/, "");
}

function parseAccess(match: RegExpExecArray, clock: Date): LineFields {
  const [, client = "", day, month = "", year, time, zoneHours, zoneMinutes, request = "", status] = match;
  return {
    ...at(Date.parse(`${year}-${monthNumber(month)}-${day}T${time}${zoneHours}:${zoneMinutes}`), clock),
    source_ip: isAddress(client) ? client : "",
    source_type: "http",
    event_category: "web",
    event_outcome: Number(status) < 400 ? "success" : "failure",
    event_action: /^([A-Z]{3,16}) /.exec(request)?.[1]?.toLowerCase() ?? "request",
  };
}

/** The error logs of nginx and Apache. They name no zone: times are UTC. */
function parseErrorLog(line: string, clock: Date): LineFields | undefined {
  const nginx = shapes.nginxError.exec(line);
  const apache = nginx ? null : shapes.apacheError.exec(line);
  if (!nginx && !apache) return undefined;
  const [iso, level = "", client = ""] = nginx
    ? [`${nginx[1]}-${nginx[2]}-${nginx[3]}T${nginx[4]}Z`, nginx[5], nginxClient(line)]
    : [`${apache![4]}-${monthNumber(apache![1]!)}-${apache![2]}T${apache![3]}Z`, apache![5], apache![6]];
  return {
    ...at(Date.parse(iso), clock),
    source_ip: isAddress(client) ? client : "",
    source_type: "http",
    event_category: "web",
    event_outcome: failedLevels.includes(level) ? "failure" : "unknown",
    event_action: "message",
  };
}

/** Nginx writes the client after text of the client's own, so where two are named neither is taken. */
function nginxClient(line: string): string {
  const [, after, more] = line.split(", client: ", 3);
  return more === undefined ? (after?.split(",", 1)[0] ?? "") : "";
}

function monthNumber(month: string): string {
  return String(months.indexOf(month) + 1).padStart(2, "0");
}

/**
 * RFC 3164 has no year: the latest one in which the date exists and is not in the future. Times are UTC. A date that
 * would soon be taken for next year's fixes nothing: its sender's clock may only run ahead.
 */
function yearless(
  month: number,
  day: number,
  hour: number,
  minute: number,
  second: number,
  clock: Date,
): When {
  const latest = clock.getTime() + maxAheadSeconds * 1000;
  const thisYear = clock.getUTCFullYear();
  let next = Number.POSITIVE_INFINITY;
  for (let year = thisYear + 1; year > thisYear - 9; year--) {
    const time = Date.UTC(year, month, day, hour, minute, second);
    if (new Date(time).getUTCMonth() !== month) continue;
    if (time > latest) next = time;
    else {
      const when = at(time, clock);
      return { ...when, isDated: when.isDated && next > latest + repeatDays * 24 * 3600 * 1000 };
    }
  }
  return unknownTime(clock);
}

/** A line's own time if an event may have it; the raw line shows it in any case. */
function at(milliseconds: number, clock: Date): When {
  const event_timestamp = seconds(milliseconds);
  const { from, to } = acceptedTimes(clock);
  const isDated = event_timestamp >= from && event_timestamp <= to;
  return isDated ? { event_timestamp, isDated } : unknownTime(clock);
}

function unknownTime(clock: Date): When {
  return { event_timestamp: seconds(clock.getTime()), isDated: false };
}

function seconds(milliseconds: number): number {
  return Math.floor(milliseconds / 1000);
}
