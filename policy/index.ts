// The rules as a policy pack (CrossGuard): `npm install` in this folder builds it, because Pulumi loads a pack as plain
// JavaScript; then `pulumi preview --policy-pack policy`.
// The main program does not need this; its tests run the same rules.

import { PolicyPack, type Policies, type PolicyResource } from "@pulumi/policy";
import { type Resource, rules, Stack } from "./rules.ts";

type Given = Pick<PolicyResource, "type" | "name" | "urn" | "props" | "opts" | "provider">;

function resource(given: Given): Resource {
  return {
    type: given.type,
    name: given.name,
    urn: given.urn,
    props: given.props,
    id: undefined,
    provider: given.provider?.urn,
    protect: given.opts.protect,
  };
}

const policies: Policies = rules.map((rule) => {
  const { name, description } = rule;
  const common = { name, description, enforcementLevel: "mandatory" as const };
  if ("one" in rule) {
    return {
      ...common,
      validateResource: (args, report) => {
        for (const message of rule.one(resource(args))) report(message);
      },
    };
  }
  return {
    ...common,
    validateStack: (args, report) => {
      for (const { resource: found, message } of rule.all(new Stack(args.resources.map(resource)))) {
        report(message, found.urn);
      }
    },
  };
});

new PolicyPack("siem-ha", { policies });
