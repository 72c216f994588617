// docs/ingest.md says what the code does: its example lines, answers, fields, media types and limits are read from it.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { connections } from "../../components/render/haproxy.ts";
import { ownAnswers } from "../../components/render/own-answers.ts";
import { maxBodyBytes } from "../../services/common/http.ts";
import { maxEvents, mediaTypes } from "../../services/ingestor/body.ts";
import { maxHeldBytes } from "../../services/ingestor/budget.ts";
import { eventColumns, maxEventBytes } from "../../services/ingestor/event.ts";
import { maxPosts } from "../../services/ingestor/intake.ts";
import { parseLine } from "../../services/ingestor/logline.ts";

const root = join(import.meta.dirname, "../..");
const doc = readFileSync(join(root, "docs/ingest.md"), "utf8");
const apiDoc = readFileSync(join(root, "docs/api.md"), "utf8");
/** The rows of the table whose first column has this heading. */
function table(heading: string): string[][] {
  const [, after = ""] = doc.split(new RegExp(`^\\| ${heading} .*\\n\\|[ |-]+\\|\\n`, "m"));
  const rows = after
    .split(/\n(?!\|)/)[0]!
    .trim()
    .split("\n");
  return rows.map((row) =>
    row
      .slice(1, -1)
      .split("|")
      .map((cell) => cell.trim().replace(/^`(.*)`$/, "$1")),
  );
}

describe("the example lines", () => {
  const now = new Date("2031-03-05T12:00:00Z");
  const examples = table("line");

  it("are there", () => expect(examples.length).toBeGreaterThan(15));
  it.each(examples)("%s", (line, time, ...expected) => {
    const { event_timestamp, source_ip, source_type, event_category, event_outcome, event_action } =
      parseLine(line, now);
    const at = time === "arrival" ? now.getTime() : Date.parse(time);
    expect([source_ip, source_type, event_category, event_outcome, event_action]).toEqual(expected);
    expect(event_timestamp).toBe(at / 1000);
  });
});

describe("the tables", () => {
  it("name every answer that the code can give", () => {
    const source = ["ingestor", "common"]
      .flatMap((folder) =>
        readdirSync(join(root, "services", folder)).map((file) => join(root, "services", folder, file)),
      )
      .filter((file) => file.endsWith(".ts"))
      .map((file) => readFileSync(file, "utf8"))
      .concat(...Object.values(ownAnswers.ingest).map(([code]) => `"${code}"`))
      .join("\n");
    const inCode = [...source.matchAll(/new HttpError\(\s*(\d{3}),\s*"(\w+)"/g)]
      .map(([, status, code]) => `${status} ${code}`)
      // Nobody is there to read it.
      .filter((answer) => answer !== "499 client_gone");
    const inDoc = table("status").map(([status, code]) => `${status} ${code}`);
    expect(inCode.length).toBeGreaterThan(10);
    expect(inDoc).toEqual(expect.arrayContaining([...new Set(inCode)]));
    const byProxy = Object.entries(ownAnswers.ingest).map(([status, [code]]) => `${status} ${code}`);
    expect(inDoc).toEqual(expect.arrayContaining(byProxy));
    for (const [status, [code]] of Object.entries(ownAnswers.api)) {
      expect(apiDoc).toMatch(new RegExp(`^\\| ${status} .*\`${code}\``, "m"));
    }
    for (const [status, code] of table("status").slice(1)) {
      if (!code!.startsWith("fst_")) expect(source, `${status} ${code}`).toContain(`"${code}"`);
    }
  });

  it("name the fields and the media types", () => {
    const fields = table("field").map(([name]) => name);
    expect(new Set(fields)).toEqual(new Set(Object.keys(eventColumns)));
    expect(table("media type").map(([type]) => type)).toEqual([...mediaTypes]);
  });

  it("state the limits of the code", () => {
    const mib = (bytes: number): string => `${bytes / 1024 / 1024} MiB`;
    expect(doc).toContain(`more than ${mib(maxBodyBytes)} `);
    expect(doc).toContain(`more than ${maxEvents.toLocaleString("en")} events`);
    expect(doc).toContain(`more than ${maxEventBytes / 1024} KiB (`);
    expect(doc).toContain(`holds ${mib(maxHeldBytes)} of bodies`);
    for (const text of [doc, apiDoc]) expect(text).toContain(`${connections.fromOne} connections`);
    expect(doc).toContain(`${maxPosts.toLocaleString("en")} posts`);
  });
});
