#!/bin/bash
# Tells Keepalived when the HAProxy beside it dies, when it hangs, and when it answers again. PROXY_ALIVE is a pipe that
# HAProxy's container holds open for as long as it lives; its end is the death notice, whatever the cause. One that hangs
# holds it too, so it is asked as well. All of it is one process: on a busy machine each new one may have to wait.
set -uo pipefail
# HAProxy may end a connection before the request is written.
trap '' PIPE
: "${VIP_STATE:=/run/vip}"
down="$VIP_STATE/proxy-down"
# So many seconds lie between two questions, and so long may an answer take; then it is asked once more, at once. One
# that hangs is noticed after 0.36 to 0.41 s.
pause=.05
: "${PROXY_PATIENCE_MS:=180}"
printf -v patience '%d.%03d' $((PROXY_PATIENCE_MS / 1000)) $((PROXY_PATIENCE_MS % 1000))
say() { echo "proxy: $*" >&2; }
answered() {
  local status
  {
    printf 'GET / HTTP/1.0\r\n\r\n' >&3 && read -rt "$patience" -u 3 status && [[ "$status" == HTTP/1.?\ 200\ * ]]
  } 3<> "/dev/tcp/127.0.0.1/$PROXY_HEALTH_PORT"
} 2> /dev/null
# Where the time was over much later than asked for, it is this process that had to wait, and may have missed the answer:
# that proves nothing.
answers() {
  local began misses=0 count
  for ((count = 0; count < 5 && misses < 2; count++)); do
    began=${EPOCHREALTIME/./}
    answered && return 0
    ((${EPOCHREALTIME/./} - began > PROXY_PATIENCE_MS * 1500)) || ((misses++))
  done
  return 1
}
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
  up="" misses=0
  while :; do
    if answers; then
      misses=0
      [[ -n "$up" ]] || { echo 0 > "$down" && up=1 && say "HAProxy answers"; }
    elif [[ -n "$up" ]]; then
      echo 1 > "$down"
      up=""
      say "HAProxy hangs; this node leaves the election"
    fi
    # One that gives no answer for long is not asked as often: what it has not taken yet waits in a queue of 4096.
    [[ -n "$up" ]] || ((misses++))
    ended "$((misses < 50 ? 0 : 1))$pause" && break
  done
  # Nothing in between: from here to Keepalived it is one write.
  echo 1 > "$down"
  say "HAProxy is gone; this node leaves the election"
  exec {line}<&-
done
