#!/bin/bash
# Tells Keepalived at once when the HAProxy beside it dies, and when it answers again. PROXY_ALIVE is a pipe that
# HAProxy's container holds open for as long as it lives; its end is the death notice, whatever the cause.
set -uo pipefail
: "${VIP_STATE:=/run/vip}"
down="$VIP_STATE/proxy-down"
say() { echo "proxy: $*" >&2; }
answers() { curl -fsS -o /dev/null --connect-timeout 0.3 --max-time 0.5 "$PROXY_HEALTH" 2> /dev/null; }
# Nobody ever writes to the pipe: a read waits, and fails with 1 once no process holds the other end.
ended() { # seconds
  read -rt "$1" -u "$line"
  (($? == 1))
}

# A predecessor that was killed may have missed something.
answers || echo 1 > "$down"
while :; do
  if [[ ! -p "$PROXY_ALIVE" ]]; then
    sleep 0.2
    continue
  fi
  # Opening waits until somebody holds the other end.
  exec {line}< "$PROXY_ALIVE"
  dead=0 tries=0
  until answers; do
    # It takes some 100 ms to start; one that gives no answer for long is not asked as often.
    ended "$((tries++ < 50 ? 0 : 1)).05" && dead=1 && break
  done
  if ((dead == 0)); then
    say "HAProxy answers"
    echo 0 > "$down"
    # The event itself. Nothing in between: from here to Keepalived it is one write.
    until ! read -r -u "$line"; do :; done
    echo 1 > "$down"
    say "HAProxy is gone; this node leaves the election"
  fi
  exec {line}<&-
done
