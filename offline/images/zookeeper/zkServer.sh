#!/bin/bash
# The server in the foreground, with the public image's memory and option variables.
set -euo pipefail
if [[ "${1:-}" != start-foreground ]]; then
  echo "zkServer.sh: '${1:-}' was asked for, but this image only knows 'start-foreground'; for its state use: echo srvr | nc localhost 2181" >&2
  exit 64
fi
# The option variables hold lists of options, so they are split on purpose.
exec java "-Xmx${ZK_SERVER_HEAP:-1000}m" ${SERVER_JVMFLAGS:-} ${JVMFLAGS:-} \
  "-Dzookeeper.log.dir=$ZOO_LOG_DIR" \
  -XX:+HeapDumpOnOutOfMemoryError "-XX:OnOutOfMemoryError=kill -9 %p" \
  -cp "$ZOO_CONF_DIR:/opt/zookeeper/conf:/opt/zookeeper/lib/*" \
  org.apache.zookeeper.server.quorum.QuorumPeerMain "$ZOO_CONF_DIR/zoo.cfg"
