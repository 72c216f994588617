// Puts the recording plugins into a Pulumi home of a test's own.

import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pluginProgram, quoted } from "../plugins.ts";
import { packageVersion } from "../plugins/version.ts";
import { plugins } from "./world.ts";

/** A start takes a second; a whole minute means that it hangs. */
const startSeconds = 60;

/** Installs all three, with the versions of the SDKs in node_modules. */
export function installRecorders(pulumiHome: string): void {
  const main = pluginProgram("recorder/main.ts");
  for (const name of plugins) {
    const folder = join(pulumiHome, "plugins", `resource-${name}-v${packageVersion(`@pulumi/${name}`)}`);
    mkdirSync(folder, { recursive: true });
    const binary = join(folder, `pulumi-resource-${name}`);
    const words = [process.execPath, main, name].map(quoted);
    writeFileSync(binary, launcher(words.join(" ")));
    chmodSync(binary, 0o755);
  }
}

/**
 * Starts the plugin and hands on the port that it prints. On a busy machine Node 20 was seen to hang before it ran a
 * line (two threads, both waiting), and the engine would wait for ever: such a start is tried again.
 */
function launcher(command: string): string {
  return `#!/bin/sh
pipe=$(mktemp -u "\${TMPDIR:-/tmp}/siem-ha-recorder-XXXXXX")
trap 'kill "$pid" 2>/dev/null' TERM INT
for attempt in 1 2 3; do
  mkfifo -m 600 "$pipe"
  ${command} "$@" > "$pipe" &
  pid=$!
  port=$(timeout ${startSeconds} head -n 1 "$pipe")
  rm -f "$pipe"
  if [ -n "$port" ]; then
    echo "$port"
    wait "$pid"
    exit
  fi
  kill -9 "$pid" 2>/dev/null
  wait "$pid" 2>/dev/null
done
echo "the recorder did not start" >&2
exit 1
`;
}
