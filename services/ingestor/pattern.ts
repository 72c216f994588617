// Estimates what a rule's pattern may cost on a text that an attacker wrote, before it is ever run.

/** What a part of a pattern may cost: `times · length ** degree` steps from one place in the text. */
interface Work {
  readonly degree: number;
  readonly times: number;
  /** It can match one text in several ways or lengths, so a repetition of it could try them all together. */
  readonly varies: boolean;
  /** It matches only at the start of the text. */
  readonly anchored: boolean;
}

const nothing: Work = { degree: 0, times: 1, varies: false, anchored: false };
/** Steps that a pattern may take for each character of the longest text, at most. */
export const maxWork = 256;

const token =
  /\((?:\?(?:[:=!]|<[=!]|<\w+>))?|\)|\||\^|(?<quantifier>(?:[*+?]|\{(?<from>\d+)(?<open>,(?<to>\d*))?\})\??)|(?<back>\\(?:[1-9]|k<))|\[(?:[^\]\\]|\\.)*\]|\\?./gsu;

/**
 * Why a pattern is too expensive for texts of this length; undefined when it is not. Backtracking tries every way
 * to match, so `(a+)+` and, from every place of a long line, even `.*` stop the service. Patterns that are fine but
 * can't be told from such ones are refused too; each has a spelling with a bound that isn't.
 */
export function tooExpensive(source: string, length: number): string | undefined {
  // The innermost group comes last; each has its alternatives so far, and the parts of the current one.
  const groups: { looks: boolean; done: Work[]; parts: Work[] }[] = [{ looks: false, done: [], parts: [] }];
  for (const { 0: text, groups: found } of source.matchAll(token)) {
    const group = groups.at(-1)!;
    if (found?.["back"]) return `${text} repeats what a group matched, which can't be bounded`;
    if (text === "^") group.parts.push({ ...nothing, anchored: true });
    else if (text === "|") group.done.push(sequence(group.parts.splice(0)));
    else if (text === ")") {
      const inner = groups.pop()!;
      const work = alternatives([...inner.done, sequence(inner.parts)]);
      // What only looks around may stand anywhere.
      groups.at(-1)!.parts.push(inner.looks ? { ...work, anchored: false } : work);
    } else if (text.startsWith("(")) groups.push({ looks: /[=!]$/.test(text), done: [], parts: [] });
    else if (found?.["quantifier"]) {
      const { from, open, to } = found;
      const min = Number(from ?? (text.startsWith("+") ? 1 : 0));
      const max = text.startsWith("?") ? 1 : from && !open ? min : to ? Number(to) : Number.POSITIVE_INFINITY;
      const part = group.parts.pop() ?? nothing;
      if (part.varies && max > 1) return `${text} repeats a group that has a choice or a repetition in it`;
      group.parts.push(repeated(part, min, max));
    } else group.parts.push(nothing);
  }
  const last = groups.at(-1)!;
  const { degree, times, anchored } = alternatives([...last.done, sequence(last.parts)]);
  // The first degree is free: every character may be looked at.
  const exponent = Math.max(0, degree - (anchored ? 1 : 0));
  if (times * length ** exponent <= maxWork) return undefined;
  return exponent > 0
    ? "*, + and {n,} have no bound; write one, like .{0,200} instead of .*, or let the pattern start with ^"
    : `its repetitions multiply to ${times}; at most ${maxWork} is allowed`;
}

function sequence(parts: readonly Work[]): Work {
  return {
    degree: parts.reduce((sum, part) => sum + part.degree, 0),
    times: parts.reduce((product, part) => product * part.times, 1),
    varies: parts.some((part) => part.varies),
    anchored: parts[0]?.anchored ?? false,
  };
}

function alternatives(ways: readonly Work[]): Work {
  return {
    degree: Math.max(...ways.map((way) => way.degree)),
    times: ways.reduce((sum, way) => sum + way.times, 0),
    varies: ways.length > 1 || ways.some((way) => way.varies),
    anchored: ways.every((way) => way.anchored),
  };
}

function repeated(part: Work, min: number, max: number): Work {
  const varies = part.varies || min !== max;
  // What may be left out anchors nothing.
  const anchored = part.anchored && min > 0;
  return max === Number.POSITIVE_INFINITY
    ? { ...part, degree: part.degree + 1, varies, anchored }
    : { ...part, times: part.times * Math.max(max, max - min + 1), varies, anchored };
}
