// Labels by which the platform talks to its supervisor.

/** On a container: the address that its node must not have without it, as `172.25.0.222/24 eth0`. */
export const addressLabel = "siem-ha.address";
/** On a volume: a deploy or an operator of this stack is at work, and the supervisor stands back. */
export const holdLabel = "siem-ha.hold";
/** On the same volume: until when, seconds since 1970; after that it counts no more, whoever forgot it. */
export const holdUntilLabel = "siem-ha.hold-until";
