#!/bin/bash
# Rendered from components/render/pair-entry.ts; changes here are lost at the next up.
# shellcheck disable=SC2317 # The functions run when a signal comes.
# Runs HAProxy and hands 172.25.0.222 over before it stops it.
set -uo pipefail
alive='/var/lib/vip-pair/alive'
hand_over='/var/lib/vip-pair/hand-over'

# The kernel closes this pipe however this process ends, SIGKILL included: its other end is the death notice.
[[ -p "$alive" ]] || mkfifo -m 0644 "$alive" || exit 1
exec 3<> "$alive"
# A stop that was cut short left a 1 behind.
echo 0 > "$hand_over" || exit 1

# The address is this node's. Read from the kernel's table, because the image has no `ip`.
holds_vip() { [[ "$(< /proc/net/fib_trie)" == *"-- 172.25.0.222"$'\n'* ]]; }
# Nobody writes to the pipe, so this only waits, without a process.
pause() { read -rt "$1" -u 3; }
now() { echo "${EPOCHREALTIME/[.,]/}"; }

stop() {
  trap '' TERM INT USR1
  local began end held=
  # Asked first: on a busy machine the other side may have it before this one is asked.
  holds_vip && held=1
  began=$(now)
  end=$((began + 1 * 1000000))
  echo 1 > "$hand_over"
  if [[ -n "$held" ]]; then
    while holds_vip && (($(now) < end)); do pause 0.002; done
    if holds_vip; then
      echo "pair: 172.25.0.222 is still here after 1 s, and HAProxy stops all the same" >&2
    else
      echo "pair: handed 172.25.0.222 over in $((($(now) - began) / 1000)) ms" >&2
    fi
  fi
  # Requests that came to this node's own address are still answered; those through 172.25.0.222 went with it.
  kill -USR1 "$proxy" 2> /dev/null
  end=$(($(now) + 7 * 1000000))
  while kill -0 "$proxy" 2> /dev/null && (($(now) < end)); do pause 0.02; done
  kill -TERM "$proxy" 2> /dev/null
}

"$@" 3>&- &
proxy=$!
trap stop TERM INT USR1
trap 'kill -USR2 "$proxy" 2> /dev/null' USR2
trap 'kill -HUP "$proxy" 2> /dev/null' HUP

# A trapped signal ends `wait` early, so wait until HAProxy is really gone.
while kill -0 "$proxy" 2> /dev/null; do
  wait "$proxy"
  status=$?
done
exit "${status:-1}"
