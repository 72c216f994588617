// A program as one file: it runs, it is made again when a source changes, and only then.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { bundled } from "../../images/bundle.ts";

const root = mkdtempSync(join(tmpdir(), "siem-ha-bundle-"));
afterAll(() => rmSync(root, { recursive: true }));
const entry = join(root, "part", "main.ts");

it("runs, and is made again only when something that goes into it has changed", () => {
  const put = (name: string, text: string) => writeFileSync(join(root, name), text);
  const runs = (file: string) => execFileSync(process.execPath, [file], { encoding: "utf8" });
  put("package-lock.json", "{}");
  expect(() => bundled(entry, root)).toThrow("part/main.ts does not exist");
  put("word.ts", "export const word: string = 'first';");
  put("main.ts", "import { word } from './word.ts';\nconsole.log(word);");
  const file = bundled(join(root, "main.ts"), root);
  expect(runs(file)).toBe("first\n");

  const made = statSync(file).ino;
  expect(bundled(join(root, "main.ts"), root)).toBe(file);
  expect(statSync(file).ino).toBe(made);

  put("word.ts", "export const word: string = 'second';");
  expect(bundled(join(root, "main.ts"), root)).toBe(file);
  expect(runs(file)).toBe("second\n");

  // Another version of a package is another program.
  const again = statSync(file).ino;
  put("package-lock.json", '{ "lockfileVersion": 3 }');
  bundled(join(root, "main.ts"), root);
  expect(statSync(file).ino).not.toBe(again);
});

it("has nothing in the place of packages that are never used", () => {
  const file = join(root, "lazy.ts");
  writeFileSync(file, "import * as never from 'no-such-package';\nconsole.log(Object.keys(never).length);");
  expect(() => bundled(file, root)).toThrow("no-such-package");
  const made = bundled(file, root, ["no-such-package"]);
  expect(execFileSync(process.execPath, [made], { encoding: "utf8" })).toBe("0\n");
});
