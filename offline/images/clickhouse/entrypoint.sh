#!/bin/bash
# Prepares directories and the configured user as the public image does, drops root, and starts the server.
set -euo pipefail

if [[ -n "${CLICKHOUSE_DB:-}" || -n "$(ls -A /docker-entrypoint-initdb.d)" ]]; then
  echo "CLICKHOUSE_DB and /docker-entrypoint-initdb.d are not understood by this stand-in: make databases over a connection." >&2
  exit 1
fi

if [[ "$(id -u)" == 0 && -z "${CLICKHOUSE_DO_NOT_CHOWN:-}" ]]; then
  chown -R clickhouse:clickhouse /var/lib/clickhouse /var/log/clickhouse-server
fi

user="${CLICKHOUSE_USER:-default}"
if [[ "$user" != default || -n "${CLICKHOUSE_PASSWORD:-}" ]]; then
  escaped="$(sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' <<< "${CLICKHOUSE_PASSWORD:-}")"
  cat > /etc/clickhouse-server/users.d/default-user.xml <<EOF
<yandex>
  <users>
    <default remove="remove"></default>
    <$user>
      <profile>default</profile>
      <networks><ip>::/0</ip></networks>
      <password>$escaped</password>
      <quota>default</quota>
    </$user>
  </users>
</yandex>
EOF
fi

if [[ $# == 0 || "$1" == --* ]]; then
  set -- clickhouse-server "--config-file=$CLICKHOUSE_CONFIG" "$@"
  if [[ "$(id -u)" == 0 ]]; then
    set -- setpriv --reuid=clickhouse --regid=clickhouse --init-groups "$@"
  fi
  # ld.so would only warn.
  [[ -r /usr/local/lib/habits.so ]] || { echo "this image lacks /usr/local/lib/habits.so" >&2; exit 1; }
  export LD_PRELOAD=/usr/local/lib/habits.so
fi
exec "$@"
