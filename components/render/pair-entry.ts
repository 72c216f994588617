// HAProxy's first process as text: it holds the line by which Keepalived learns of HAProxy's death, and hands the
// virtual IP to the other load balancer before it stops HAProxy.

import { type Topology } from "../topology.ts";
import { pairFiles } from "./keepalived.ts";

/** Where the script stands in HAProxy's container. */
export const pairEntry = "/usr/local/etc/siem-ha/pair-entry.sh";

/** Longest wait for the address to go, and for requests in flight; Docker itself stops waiting after ten seconds. */
const handOverSeconds = 1;
const drainSeconds = 7;

/** The script; its arguments are the HAProxy that it runs. */
export function renderPairEntry(topology: Topology): string {
  const { address } = topology.vip;
  return `#!/bin/bash
# Rendered from components/render/pair-entry.ts; changes here are lost at the next up.
# shellcheck disable=SC2317 # The functions run when a signal comes.
# Runs HAProxy and hands ${address} over before it stops it.
set -uo pipefail
alive='${pairFiles.alive}'
hand_over='${pairFiles.handOver}'

# The kernel closes this pipe however this process ends, SIGKILL included: its other end is the death notice.
[[ -p "$alive" ]] || mkfifo -m 0644 "$alive" || exit 1
exec 3<> "$alive"
# A stop that was cut short left a 1 behind.
echo 0 > "$hand_over" || exit 1

# The address is this node's. Read from the kernel's table, because the image has no \`ip\`.
holds_vip() { [[ "$(< /proc/net/fib_trie)" == *"-- ${address}"$'\\n'* ]]; }
# Nobody writes to the pipe, so this only waits, without a process.
pause() { read -rt "$1" -u 3; }
now() { echo "\${EPOCHREALTIME/[.,]/}"; }

stop() {
  trap '' TERM INT USR1
  local began end held=
  # Asked first: on a busy machine the other side may have it before this one is asked.
  holds_vip && held=1
  began=$(now)
  end=$((began + ${handOverSeconds} * 1000000))
  echo 1 > "$hand_over"
  if [[ -n "$held" ]]; then
    while holds_vip && (($(now) < end)); do pause 0.002; done
    if holds_vip; then
      echo "pair: ${address} is still here after ${handOverSeconds} s, and HAProxy stops all the same" >&2
    else
      echo "pair: handed ${address} over in $((($(now) - began) / 1000)) ms" >&2
    fi
  fi
  # Requests that came to this node's own address are still answered; those through ${address} went with it.
  kill -USR1 "$proxy" 2> /dev/null
  end=$(($(now) + ${drainSeconds} * 1000000))
  while kill -0 "$proxy" 2> /dev/null && (($(now) < end)); do pause 0.02; done
  kill -TERM "$proxy" 2> /dev/null
}

"$@" 3>&- &
proxy=$!
trap stop TERM INT USR1
trap 'kill -USR2 "$proxy" 2> /dev/null' USR2
trap 'kill -HUP "$proxy" 2> /dev/null' HUP

# A trapped signal ends \`wait\` early, so wait until HAProxy is really gone.
while kill -0 "$proxy" 2> /dev/null; do
  wait "$proxy"
  status=$?
done
exit "\${status:-1}"
`;
}
