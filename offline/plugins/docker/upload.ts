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
export async function archive(
  files: readonly { readonly upload: Upload; readonly data: Buffer }[],
): Promise<Buffer> {
  const pack = tar.pack();
  const chunks: Buffer[] = [];
  const done = new Promise<Buffer>((resolve, reject) => {
    pack.on("data", (chunk: Buffer) => chunks.push(chunk));
    pack.on("end", () => resolve(Buffer.concat(chunks)));
    pack.on("error", reject);
  });
  for (const { upload, data } of files) {
    const header = {
      name: upload.file.replace(/^\/+/, ""),
      mode:
        upload.permissions === undefined
          ? upload.executable === true
            ? 0o744
            : 0o644
          : parseInt(upload.permissions, 8),
      uid: Number(upload.owner ?? 0),
      gid: Number(upload.group ?? 0),
      // One time for all, so that equal uploads make equal layers.
      mtime: new Date(0),
    };
    pack.entry(header, data, (error) => {
      if (error !== undefined && error !== null) pack.destroy(error);
    });
  }
  pack.finalize();
  return done;
}
