#!/bin/bash
# ZooKeeper's client: zkCli.sh -server host:2181 ls /
exec java "-Xmx${ZK_CLIENT_HEAP:-256}m" ${CLIENT_JVMFLAGS:-} -Dzookeeper.log.threshold=WARN \
  -cp "/opt/zookeeper/conf:/opt/zookeeper/lib/*" org.apache.zookeeper.ZooKeeperMain "$@"
