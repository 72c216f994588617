// Docker writes durations the way Go does ("1m0s"), and a diff against what a program wrote must see that.

const units: Readonly<Record<string, number>> = {
  ns: 1,
  us: 1e3,
  µs: 1e3,
  ms: 1e6,
  s: 1e9,
  m: 60e9,
  h: 3600e9,
};

/** Nanoseconds of a Go duration such as `1m0s` or `500ms`. */
export function nanoseconds(text: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g)];
  const whole = parts.map(([part]) => part).join("");
  if (text === "0") return 0;
  if (whole !== text || parts.length === 0) {
    throw new Error(
      `"${text}" is no duration: write a number and a unit (ns, us, ms, s, m, h), as in "10s" or "1m30s"`,
    );
  }
  return Math.round(
    parts.reduce((sum, [, number, unit]) => sum + Number(number) * (units[unit ?? ""] ?? 0), 0),
  );
}

/** Nanoseconds as Go prints them: sixty seconds are `1m0s`. */
export function goDuration(total = 0): string {
  if (total === 0) return "0s";
  if (total < 1e9) {
    for (const unit of ["ms", "us"] as const) {
      const size = units[unit] ?? 1;
      if (total >= size) return `${total / size}${unit === "us" ? "µs" : unit}`;
    }
    return `${total}ns`;
  }
  const hours = Math.floor(total / 3600e9);
  const minutes = Math.floor((total % 3600e9) / 60e9);
  const seconds = `${(total % 60e9) / 1e9}s`;
  if (hours > 0) return `${hours}h${minutes}m${seconds}`;
  return minutes > 0 ? `${minutes}m${seconds}` : seconds;
}
