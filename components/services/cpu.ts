// Who goes first where the processors don't suffice: what decides who holds the virtual IP, and who leads.

/**
 * CPU weights, in Docker's unit: a container that is not named here has 1024. A weight takes nothing from anybody while
 * there is time for all. On a busy machine it lets those go first whose silence counts as their death: a load balancer
 * that says nothing for 0.3 s has lost the address, a broker that says nothing for seconds its partitions. They need little.
 *
 * With version 2 of control groups runc makes 1 + 9999 × (shares − 2) / 262142 of them, the same ratio: 782 of 20480 and
 * 39 of 1024. Newer releases of runc bring the two closer together.
 */
export const cpuShares = {
  /** With its lease agent and its watcher of HAProxy. */
  keepalived: 20480,
  /** It has to answer the watcher within a fraction of a second, and all clients come through it. */
  haproxy: 20480,
  /** Is asked four times a second, and has a quarter of a second to answer. */
  witness: 20480,
  /** Takes the address off a Keepalived that was killed. */
  supervisor: 20480,
  /** The container, there for a moment, by which it does so: Docker's highest. */
  addressRelease: 262144,
  zookeeper: 8192,
  kafka: 4096,
  /** Without it a storm of forty busy containers leaves readers without an answer for most of a minute. */
  clickhouse: 4096,
  /** The API and the ingestors: HAProxy takes one out that does not answer its checks. */
  httpService: 4096,
} as const;
