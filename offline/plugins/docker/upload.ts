// Packs a container's uploads into the one tar archive that Docker's API takes.

import { createRequire } from "node:module";
import type { Readable } from "node:stream";
import type { Upload } from "./container.ts";

interface Pack extends Readable {
  entry(header: object, data: Buffer, done: (error?: Error | null) => void): void;
  finalize(): void;
}

// tar-stream 2 ships no type declarations.
const tar = createRequire(import.meta.url)("tar-stream") as { pack(): Pack };

/** The archive, with paths relative to the container's root. */
export async function archive(files: readonly Upload[]): Promise<Buffer> {
  const pack = tar.pack();
  const chunks: Buffer[] = [];
  const done = new Promise<Buffer>((resolve, reject) => {
    pack.on("data", (chunk: Buffer) => chunks.push(chunk));
    pack.on("end", () => resolve(Buffer.concat(chunks)));
    pack.on("error", reject);
  });
  for (const { file, content = "", executable, permissions } of files) {
    const header = {
      name: file.replace(/^\/+/, ""),
      mode: permissions === undefined ? (executable === true ? 0o744 : 0o644) : parseInt(permissions, 8),
      // One time for all, so that equal uploads make equal layers.
      mtime: new Date(0),
    };
    pack.entry(header, Buffer.from(content), (error) => {
      if (error !== undefined && error !== null) pack.destroy(error);
    });
  }
  pack.finalize();
  return done;
}
