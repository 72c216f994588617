// Says to the supervisor that somebody is at work on the stack: a volume with a deadline, which it honours.

import type Docker from "dockerode";
import { nameFrom } from "../components/config.ts";
import { holdLabel, holdUntilLabel } from "../services/supervisor/labels.ts";

/** A writer that dies leaves its hold for this long. */
const holdSeconds = 180;
const renewMs = 60_000;

/** Runs the work while the supervisor of this stack stands back. */
export async function withHold<T>(docker: Docker, stack: string, work: () => Promise<T>): Promise<T> {
  // Labels can't be changed, so a renewal is the other of two volumes, made before the first one goes.
  const name = nameFrom(stack);
  const volumes = [`${name}-hold-a`, `${name}-hold-b`] as const;
  const remove = (name: string) =>
    docker
      .getVolume(name)
      .remove()
      .catch((error: unknown) => {
        if ((error as { statusCode?: number }).statusCode !== 404) throw error;
      });
  let turn = 0;
  const renew = async (): Promise<void> => {
    const [next, last] = turn++ % 2 === 0 ? volumes : ([volumes[1], volumes[0]] as const);
    // Left by one that was killed.
    await remove(next);
    await docker.createVolume({
      Name: next,
      Labels: {
        [holdLabel]: stack,
        [holdUntilLabel]: String(Math.ceil(Date.now() / 1000) + holdSeconds),
      },
    });
    await remove(last);
  };
  await renew();
  let renewing = Promise.resolve();
  const timer = setInterval(() => {
    // A daemon that doesn't answer now is asked again in a minute; the hold lasts for three.
    renewing = renewing.then(renew).catch(() => undefined);
  }, renewMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    await renewing;
    for (const name of volumes) await remove(name);
  }
}
