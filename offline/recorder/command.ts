// The recording stand-in of the command plugin: nothing is run. A command that asks machines fails where one of them
// does not exist or does not answer, and those whose output the program reads have an answer.

import { createHash, randomBytes } from "node:crypto";
import type { Props, ResourceKind } from "../plugins/server.ts";
import { diffCommand } from "../plugins/command/local.ts";
import { type World } from "./world.ts";

/** What commands print, by their resource's name; the first that fits. Anything else prints nothing. */
const answers: readonly { readonly name: RegExp; stdout(inputs: Inputs): string }[] = [
  {
    name: /read(y|iness)|host-key|reachable/,
    stdout: (inputs) => `${machinesIn(inputs)[0] ?? "machine"} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIrecorded`,
  },
  // Brings one of our images to a machine: prints its id there.
  {
    name: /pull|node-\d+-(image-)?(api|ingestor|keepalived|witness)/,
    stdout: (inputs) => `sha256:${digest(inputs.environment?.["REFERENCE"])}`,
  },
  // Builds one and pushes it: prints its reference.
  {
    name: /image|push/,
    stdout: (inputs) => {
      const repository = inputs.environment?.["REPOSITORY"] ?? "registry.invalid/image";
      return `${repository}@sha256:${digest(repository)}`;
    },
  },
];

type Inputs = Props & {
  readonly create?: string;
  readonly update?: string;
  readonly delete?: string;
  readonly environment?: Record<string, string>;
  readonly triggers?: readonly unknown[];
};

function digest(of: string | undefined): string {
  return createHash("sha256")
    .update(of ?? "")
    .digest("hex");
}

/** The machine of a variable is only looked at by a gate, to see whether there is a next replica: that may fail. */
function onlyLooksAt(text: string, variable: string): boolean {
  const uses = text.split(`docker -H "$${variable}" `).slice(1);
  return uses.length > 0 && uses.every((use) => use.startsWith("container inspect "));
}

/** The instances that a command can't do without. */
function asked(inputs: Inputs, text: string): string[] {
  // Each machine's host key stands beside its address.
  const environment = Object.entries(inputs.environment ?? {}).filter(
    ([name]) => !name.startsWith("SIEM_HA_KNOWN_HOST_") && !onlyLooksAt(text, name),
  );
  return machinesIn({ ...inputs, environment: Object.fromEntries(environment) });
}

/** The instances that a command's text and environment name. Triggers are only compared, so they don't count. */
export function machinesIn(inputs: Props): string[] {
  const { triggers: _triggers, ...rest } = inputs;
  return [...new Set(JSON.stringify(rest).match(/\bi-[0-9a-f]{17}\b/g) ?? [])];
}

export function commandKinds(world: World): Record<string, ResourceKind> {
  const type = "command:local:Command";
  function run(op: "create" | "update" | "delete", id: string, inputs: Inputs, urn: string): Props {
    const name = urn.split("::").at(-1) ?? "";
    const text = op === "update" ? (inputs.update ?? inputs.create) : inputs[op];
    const output = {
      stdout: answers.find((answer) => answer.name.test(name))?.stdout(inputs) ?? "",
      stderr: "",
    };
    const state = { ...inputs, ...output };
    const gone = (text ?? "") === "" ? [] : asked(inputs, text ?? "").filter((id) => !world.answers(id));
    const refused = gone.length > 0 ? `${name}: ${gone.join(", ")} can't be reached` : undefined;
    world.note({
      plugin: "command",
      op,
      type,
      name,
      urn,
      id,
      inputs: op === "delete" ? {} : inputs,
      ...(op === "delete" ? {} : { state }),
      ...(refused === undefined ? {} : { refused }),
    });
    if (refused !== undefined) throw new Error(refused);
    return state;
  }
  return {
    [type]: {
      derived: ["stdout", "stderr"],
      check: () => ({ failures: [] }),
      diff: (state, news) => diffCommand(state, news),
      create(news, { name, urn }) {
        const id = `${name}${randomBytes(4).toString("hex")}`;
        return Promise.resolve().then(() => ({ id, state: run("create", id, news, urn) }));
      },
      read: (_id, state) => Promise.resolve(state),
      update: (id, _state, news, { urn }) => Promise.resolve().then(() => run("update", id, news, urn)),
      delete: (id, state, { urn }) => Promise.resolve().then(() => void run("delete", id, state, urn)),
    },
  };
}
