// What a cut in the network is, as rules inside the nodes' own networks, and what takes a card down. Pure.

/** A node's card on the bridge. */
export interface Card {
  readonly node: string;
  readonly mac: string;
  readonly address: string;
}

const table = "siem_chaos";
const set = (values: readonly string[]) => `{ ${values.join(", ")} }`;

/** With this code a line of a cut ends where nftables refuses it; no rule is in place then. */
export const refused = 42;

/** Takes a node's card down, and says when. The kernel forgets its routes, and brings back only that of its own network. */
export const linkDown = "ip link set eth0 down && date +%s.%N";
export const linkUp = "ip link set eth0 up";

/** Removes a cut; succeeds where there is none. */
export const mend = `nft delete table netdev ${table} 2>/dev/null || :`;

/**
 * For each node that has a part in a cut, the shell line that makes it. Frames are dropped, not connections: ARP and
 * VRRP too. Incoming frames are dropped on both sides of a cut; a side that is cut off from everything also sends
 * nothing, because its announcements of the virtual IP would reach clients that it can't answer.
 * @param side one side, whose nodes still reach each other
 * @param from the other side, if the rest of the network keeps seeing both
 */
export function cut(side: readonly Card[], from?: readonly Card[]): ReadonlyMap<string, string> {
  const macs = (cards: readonly Card[]) => set(cards.map(({ mac }) => mac));
  const rules = (incoming: string, outgoing: readonly string[] = []) =>
    [
      `add table netdev ${table}`,
      `add chain netdev ${table} in { type filter hook ingress device eth0 priority 0; }`,
      `add rule netdev ${table} in ${incoming} drop`,
      ...(outgoing.length === 0
        ? []
        : [
            `add chain netdev ${table} out { type filter hook egress device eth0 priority 0; }`,
            ...outgoing.map((rule) => `add rule netdev ${table} out ${rule} drop`),
          ]),
    ].join("; ");
  // In one transaction, and the moment at which it counts. What is refused is quoted in further lines.
  const line = (text: string) =>
    `why=$(nft '${text}' 2>&1) && date +%s.%N || { echo "$why" | head -n 1 >&2; exit ${refused}; }`;
  if (from === undefined) {
    const own = set(side.map(({ address }) => address));
    const text = rules(`ether saddr != ${macs(side)}`, [
      `ether type arp arp daddr ip != ${own}`,
      `ether daddr != ${set([...side.map(({ mac }) => mac), "ff:ff:ff:ff:ff:ff"])}`,
    ]);
    return new Map(side.map(({ node }) => [node, line(text)]));
  }
  return new Map([
    ...side.map(({ node }) => [node, line(rules(`ether saddr ${macs(from)}`))] as const),
    ...from.map(({ node }) => [node, line(rules(`ether saddr ${macs(side)}`))] as const),
  ]);
}
