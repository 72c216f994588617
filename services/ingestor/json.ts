// Looks over JSON text before it is parsed: JSON.parse keeps the last of two equal keys without a word, and builds
// whatever it is given, a million arrays in five megabytes too. Events are flat, so one pass over the text is enough.

/** Something that events may not have, though it may be JSON. */
export class RefusedJson extends Error {
  /** The event's place in an array, from 1; 1 for a single one. */
  readonly place: number;
  readonly key: string;
  readonly what: "duplicate" | "nested" | "too_many";

  constructor(what: RefusedJson["what"], place: number, key = "") {
    super(what);
    this.what = what;
    this.place = place;
    this.key = key;
  }
}

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const colon = 0x3a;
const [openArray, closeArray, openObject, closeObject] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Checks an event, or with `maxEvents` also an array of so many. It refuses keys that occur twice, objects and arrays
 * inside an event, and more events than that. Text that is no JSON may pass: the parser that comes next refuses it.
 * @throws {RefusedJson}
 */
export function checkEvents(text: string, maxEvents?: number): void {
  let place = 1;
  let inArray = false;
  let inEvent = false;
  let keys: string[] = [];
  let many: Set<string> | undefined;
  let key = "";
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case quote: {
        const end = endOfString(text, at);
        // A string before a colon is a key. Between them there may be spaces only.
        if (inEvent && isKey(text, end + 1)) {
          key = text.slice(at + 1, end);
          if (key.includes("\\")) key = unescaped(key);
          if (many?.has(key) ?? keys.includes(key)) throw new RefusedJson("duplicate", place, key);
          if (many) many.add(key);
          else if (keys.push(key) > 32) many = new Set(keys);
        }
        at = end;
        break;
      }
      case comma:
        if (!inEvent && inArray && ++place > (maxEvents ?? 1)) throw new RefusedJson("too_many", place);
        break;
      case openArray:
        if (inArray || inEvent || maxEvents === undefined) throw new RefusedJson("nested", place, key);
        inArray = true;
        break;
      case openObject:
        if (inEvent) throw new RefusedJson("nested", place, key);
        inEvent = true;
        break;
      case closeObject:
        inEvent = false;
        keys = [];
        many = undefined;
        key = "";
        break;
      case closeArray:
        inArray = false;
        break;
    }
  }
}

/** Where the string that begins here ends. Runs of backslashes lie between quotes, so each is looked at once. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let before = end - 1;
    while (text.charCodeAt(before) === backslash) before--;
    if ((end - before) % 2 === 1) return end;
  }
  return text.length;
}

function isKey(text: string, from: number): boolean {
  for (let at = from; ; at++) {
    const code = text.charCodeAt(at);
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return code === colon;
  }
}

/** Two spellings of one key are one key. */
function unescaped(key: string): string {
  try {
    return JSON.parse(`"${key}"`) as string;
  } catch {
    return key;
  }
}
