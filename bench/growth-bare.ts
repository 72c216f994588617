// What bench/growth.ts measures against: as many resources, commands that do nothing, over as many plugin processes.

import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";

const config = new pulumi.Config("growth");
/** Of all resources, the providers among them. */
const resources = config.requireNumber("resources");
/** The default one among them, which the engine makes by itself. */
const providers = config.requireNumber("providers");

const own = Array.from({ length: providers - 1 }, (_, i) => new command.Provider(`provider-${i}`));
for (let i = 0; i < resources - providers; i++) {
  const provider = own[i % providers];
  new command.local.Command(`nothing-${i}`, { create: ":" }, provider === undefined ? {} : { provider });
}
