// What a construction registers under strict mocks, with plausible answers from AWS: the part that all tests share.

import * as pulumi from "@pulumi/pulumi";

export interface Registered {
  readonly type: string;
  readonly name: string;
  readonly inputs: Readonly<Record<string, unknown>>;
  readonly opts: pulumi.CustomResourceOptions;
}

export const account = "123456789012";

const calls: Record<string, Record<string, unknown>> = {
  "aws:index/getCallerIdentity:getCallerIdentity": { accountId: account, arn: "", id: account, userId: "" },
  "aws:index/getPartition:getPartition": {
    partition: "aws",
    dnsSuffix: "amazonaws.com",
    id: "aws",
    reverseDnsPrefix: "com.amazonaws",
  },
};

/** What AWS adds to the inputs of a type. A type that is not there throws. */
export type Answers = Readonly<
  Record<string, (name: string, inputs: Readonly<Record<string, unknown>>) => Record<string, unknown>>
>;

/** Says what it is the id of, so that no test takes a table's for a subnet's: `Subnet/vpc-public-1`. */
const idOf = (type: string, name: string): string => `${type.split(":").at(-1)}/${name}`;

/** Makes a resource somewhere and says its id and what is known of it besides its inputs. */
export type Maker = (
  type: string,
  name: string,
  inputs: Readonly<Record<string, unknown>>,
) => Promise<{ readonly id: string; readonly state?: Readonly<Record<string, unknown>> }>;

/**
 * Runs the construction under mocks and returns what it registered, and what it returned. With `make` the resources
 * are really made, and ids and outputs are the real ones.
 */
export async function recordWith<T>(
  answers: Answers,
  construct: (opts: pulumi.ComponentResourceOptions) => T,
  make?: Maker,
): Promise<{ readonly resources: readonly Registered[]; readonly result: T }> {
  const resources: Registered[] = [];
  const options = new Map<string, pulumi.ResourceOptions>();
  const note: pulumi.ResourceTransformation = ({ type, name, opts }) => {
    options.set(`${type}::${name}`, opts);
    return undefined;
  };
  await pulumi.runtime.setMocks(
    {
      newResource: async ({ type, name, inputs }) => {
        if (type.startsWith("siem:")) return { id: "", state: {} };
        const answer = answers[type];
        if (answer === undefined) throw new Error(`the mocks don't know ${type}: say what it returns`);
        if (resources.some((known) => known.type === type && known.name === name))
          throw new Error(`${type} ${name} is registered twice`);
        const given = inputs as Record<string, unknown>;
        resources.push({ type, name, inputs: given, opts: options.get(`${type}::${name}`) ?? {} });
        const made = await make?.(type, name, given);
        return {
          id: made?.id ?? idOf(type, name),
          state: { ...given, ...answer(name, given), ...made?.state },
        };
      },
      call: ({ token }) => {
        const answer = calls[token];
        if (answer === undefined) throw new Error(`the mocks don't know the call ${token}`);
        return answer;
      },
    },
    "siem-ha",
    "test",
    false,
  );
  const result = construct({ transformations: [note] });
  // Answers start further registrations: wait until no new ones come.
  for (let before = -1; before !== resources.length;) {
    before = resources.length;
    await pulumi.runtime.disconnect();
  }
  return { resources, result };
}

/** The value of an output, awaited, so that a failing expectation on it fails the test. */
export async function valueOf<T>(output: pulumi.Output<T>): Promise<T> {
  return new Promise<T>((resolve) => {
    output.apply(resolve);
  });
}
