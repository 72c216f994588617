// Every IAM document of prod put into AWS's API, emulated: it refuses what is no policy, which mocks would let pass.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Moto, startMoto, withoutMoto } from "../aws-emulation/moto.ts";
import { type Registration, runProgram } from "../mocks.ts";
import { prod, settings } from "./stack.ts";

const region = prod.region;

describe.skipIf(await withoutMoto())("the IAM documents of prod", () => {
  let moto: Moto;
  let resources: readonly Registration[];
  const ofType = (type: string) => resources.filter((resource) => resource.type === type);
  beforeAll(async () => {
    moto = await startMoto();
    ({ resources } = await runProgram(settings(prod), "prod"));
  });
  afterAll(() => moto.stop());
  const role = (name: string, document: string) =>
    moto.tryCall("iam", region, "CreateRole", { RoleName: name, AssumeRolePolicyDocument: document });
  const policy = (name: string, document: string) =>
    moto.tryCall("iam", region, "CreatePolicy", { PolicyName: name, PolicyDocument: document });

  it("are all taken: twelve roles, and what each may do", async () => {
    const roles = ofType("aws:iam/role:Role");
    expect(roles).toHaveLength(12);
    for (const { name, inputs } of roles) {
      const answer = await role(name, inputs["assumeRolePolicy"] as string);
      expect(answer.status, `${name}: ${answer.body}`).toBe(200);
    }
    const policies = ofType("aws:iam/rolePolicy:RolePolicy");
    expect(policies).toHaveLength(14);
    for (const [index, { name, inputs }] of policies.entries()) {
      const answer = await policy(`p${index}`, inputs["policy"] as string);
      expect(answer.status, `${name}: ${answer.body}`).toBe(200);
    }
  });

  it("are looked at there: a broken one is refused", async () => {
    const [some] = ofType("aws:iam/rolePolicy:RolePolicy");
    const text = some?.inputs["policy"] as string;
    for (const broken of [
      text.replace('"Effect":"Allow"', '"Effect":"Perhaps"'),
      text.replace(/"Resource":/, '"Ressource":'),
      text.slice(1),
    ]) {
      expect(broken).not.toBe(text);
      const answer = await policy("broken", broken);
      expect(answer.status, answer.body).toBe(400);
      expect(answer.body).toContain("MalformedPolicyDocument");
    }
  });
});
