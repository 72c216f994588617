// haproxy.cfg as text: typed data in, text out.

import { ports } from "../ports.ts";
import { type HttpReplica, type Topology } from "../topology.ts";

/** The user of the statistics page; its password is a stack secret. */
export const statsUser = "admin";

/** Fast checks instead of every 30 s, for events and syslog alike: design §6. */
const checkPace =
  "default-server inter 1s fastinter 200ms downinter 1s fall 2 rise 1 on-marked-down shutdown-sessions";

function servers(prefix: string, replicas: readonly HttpReplica[]): string {
  return replicas.map((r) => `    server ${prefix}${r.slot} ${r.node.address}:${r.port} check`).join("\n");
}

/**
 * Syslog as it comes, to the ingestor with the fewest connections. Lines are rare on some connections, so an idle one
 * stays for hours; a connection belongs to one replica, and its sender connects again when that one stops.
 */
function syslogEntry({ ingestor }: Topology): string {
  const lines = ingestor.flatMap(({ slot, node, port, syslogPort }) =>
    syslogPort === undefined
      ? []
      : [`    server ingestor${slot} ${node.address}:${syslogPort} check port ${port}`],
  );
  if (lines.length === 0) return "";
  return `
defaults
    log global
    mode tcp
    option tcplog
    option dontlognull
    option redispatch
    retries 3
    timeout connect 2s
    timeout client 4h
    timeout server 4h
    ${checkPace}

frontend siem_syslog
    bind *:${ports.syslog.number}
    default_backend siem_syslog_backend

backend siem_syslog_backend
    balance leastconn
    option httpchk GET /health
    http-check expect status 200
    http-check disable-on-404
${lines.join("\n")}
`;
}

/**
 * The load balancer's configuration, without any secret: the users of the statistics page stand in a second file
 * ({@link renderStatsUsers}). A stats socket, redispatch and retries: design §6.
 */
export function renderHaproxy(topology: Topology): string {
  return `# Rendered from components/render/haproxy.ts; changes here are lost at the next up.
global
    log stdout format raw local0 info
    maxconn 4096
    stats socket /var/run/haproxy/admin.sock mode 660 level admin expose-fd listeners
    stats timeout 30s
    hard-stop-after 30s

defaults
    log global
    mode http
    option httplog
    option dontlognull
    option forwardfor
    option redispatch
    option idle-close-on-response
    retries 3
    timeout connect 2s
    timeout client 50s
    timeout server 50s
    timeout http-request 10s
    timeout http-keep-alive 10s
    timeout queue 10s
    ${checkPace}

frontend siem_api
    bind *:${ports.haproxyApi.number}
    default_backend siem_api_backend

frontend siem_ingestor
    bind *:${ports.haproxyIngest.number}
    default_backend siem_ingestor_backend

backend siem_api_backend
    balance roundrobin
    # Only reads come here, so an answer that never came may be asked for again.
    retry-on conn-failure empty-response
    # The query of a client that has gone away ends too.
    option abortonclose
    option httpchk GET /v1/health
    http-check expect status 200
    http-check disable-on-404
${servers("api", topology.api)}

backend siem_ingestor_backend
    balance leastconn
    # A post is sent once: only one that reached no server goes to another.
    retry-on conn-failure
    option httpchk GET /health
    http-check expect status 200
    # A server that stops, or has lost Kafka, answers 404: it gets no new posts, and finishes the ones it has.
    http-check disable-on-404
    http-error status 503 content-type application/json string '{"error":"no_replica","message":"no ingestor can take events now; send all of them again"}' hdr Retry-After 2
${servers("ingestor", topology.ingestor)}

frontend stats
    bind *:${ports.haproxyStats.number}
    http-request auth realm siem-ha unless { http_auth(stats_users) }
    stats enable
    stats uri /stats
    stats refresh 10s

frontend health
    bind 127.0.0.1:${ports.haproxyHealth.number}
    option dontlog-normal
    http-request return status 200 content-type text/plain string ok
${syslogEntry(topology)}`;
}

/** The users of the statistics page: the only part of the configuration that is secret. */
export function renderStatsUsers(password: string): string {
  return `userlist stats_users\n    user ${statsUser} insecure-password ${password}\n`;
}
